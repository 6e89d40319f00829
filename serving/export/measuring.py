"""What an export costs and gains: bytes, milliseconds and metrics, beside the run that it was made of."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raysys.data.batches import Queries, make_queries
from raysys.data.dataset import MANIFEST, Dataset
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.calibration.of_tasks import FILE as CALIBRATION
from raysys.evaluation.evaluate import Evaluation, examine
from raysys.evaluation.judge import Judge
from raysys.evaluation.outcomes import FOLDER, users_of, write_outcomes
from raysys.evaluation.protocol import EvalReport
from raysys.evaluation.ranking import ModelScorer, recommend
from raysys.model.program import PROGRAMS
from raysys.runs import VALUES, Run

ORIGINAL = "original"
"""The name of the run that exports stand beside."""
SEVERAL = 32
"""Users of a batch whose time is taken."""
_K = 10
_QUESTIONS = {1: 200, SEVERAL: 20}  # how many are asked, by their number of users
_MODEL = ("model.safetensors", *(program.file for program in PROGRAMS))
_SERVED = (*_MODEL, "config.yaml", "dataset.json", VALUES, "vocabulary.arrow", "catalog.arrow", CALIBRATION, MANIFEST)


@dataclass(frozen=True)
class Measurement:
    """What was found of one run."""

    metric: str
    """Name of the ranking metric that exports are judged by."""
    found: Evaluation
    judge: Judge
    figures: Mapping[str, float]
    """Bytes of the model and of all that is served, milliseconds, and the ranking metric by its name."""

    @property
    def report(self) -> EvalReport:
        """The evaluation."""
        return self.found.report

    def keep(self, folder: Path) -> None:
        """Write what was found for each user into a run's directory, for `raysys runs compare`."""
        users = users_of(self.found.outcomes)
        path = folder / FOLDER / f"{self.report.split}.parquet"
        write_outcomes(self.found.outcomes, self.judge.reader.user_ids(users), users, path)


def measure(runs: Mapping[str, Run], datasets: Mapping[str, Dataset]) -> dict[str, Measurement]:
    """Evaluate runs of one dataset with one code and one sample of users, and time them in turns, on one thread.

    Raises:
        UserError: nobody has held-out events, or the runs do not retrieve.
    """
    with _one_thread():
        judges = {name: _judge(run, datasets[name]) for name, run in runs.items()}
        split = _split(judges[ORIGINAL])
        found = {name: examine(judges[name], run.network, split, run.calibrators) for name, run in runs.items()}
        scorers = {name: ModelScorer(run.network) for name, run in runs.items()}
        times = {count: _timed(scorers, judges, split, count) for count in _QUESTIONS}
    measured = {}
    for name, run in runs.items():
        figures = {"model_bytes": _bytes(run.path, _MODEL), "served_bytes": _bytes(run.path, _SERVED)}
        for count, by_name in times.items():
            for share in (50, 99):
                figures[f"p{share}_ms_{count}"] = float(np.percentile(by_name[name], share))
        metric = f"{run.network.retrieving()[0]}.ndcg@{_depth(judges[name])}"
        figures[metric] = found[name].report.metrics[metric].mean
        measured[name] = Measurement(metric, found[name], judges[name], figures)
    return measured


def _judge(run: Run, dataset: Dataset) -> Judge:
    run.network.retriever()  # tells at once that it has none
    config = run.config.evaluation.model_copy(update={"baselines": {}})  # they stand in the original's report
    return Judge.of(dataset, config, run.config.model.max_length)


def _depth(judge: Judge) -> int:
    return _K if _K in judge.config.k else max(judge.config.k)


def _split(judge: Judge) -> Split:
    for split in (Split.TEST, Split.VALID):
        if len(judge.rows(split)):
            return split
    raise UserError(f"{judge.dataset.path}: nobody has held-out events, so that nothing tells what an export loses")


def _timed(
    scorers: Mapping[str, ModelScorer], judges: Mapping[str, Judge], split: Split, count: int
) -> dict[str, list[float]]:
    """Return the milliseconds of questions of `count` users, from their histories to the best items of all.

    Every question is put to all, one after the other, so that a busy moment of the machine meets all alike.
    """
    questions = {name: _questions(judges[name], split, count) for name in scorers}
    times: dict[str, list[float]] = {name: [] for name in scorers}
    for at in range(-min(3, len(questions[ORIGINAL])), len(questions[ORIGINAL])):  # the first ones warm up
        for name, scorer in scorers.items():
            start = time.perf_counter()
            recommend(scorer, questions[name][at], _K)
            if at >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def _questions(judge: Judge, split: Split, count: int) -> list[Queries]:
    rows = judge.rows(split)
    places = np.arange(_QUESTIONS[count] * count) * 7919 % len(rows)  # a prime: all over the users, in no order
    parts = rows[places].reshape(-1, count)
    return [make_queries(judge.reader.rows(part), split, judge.reader.is_history, judge.max_length) for part in parts]


def _bytes(folder: Path, names: tuple[str, ...]) -> float:
    return float(sum((folder / name).stat().st_size for name in names if (folder / name).is_file()))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
