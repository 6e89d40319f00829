"""One trial: the base with some values changed, trained by the ordinary loop. Plain torch, no ray."""

import json
import math
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raysys.config import EarlyStopping, RunConfig
from raysys.configfile import Node, build, set_path
from raysys.errors import UserError, nearest
from raysys.evaluation.protocol import lower_is_better
from tuning.objectives import LATENCY

Metrics = dict[str, float]
_ERROR, _LATENCY = "error.json", "latency.json"
_KEPT = ("history.jsonl", _ERROR, _LATENCY)
SHARE = "training.user_share"
"""Path of the share of users that trials train on."""
OBJECTIVE = "objective"
"""What trials report beside the metrics: the search's metric at their best epoch so far."""


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a search have in common: plain values, so that any worker can read it."""

    base: Node
    """The resolved train config."""
    metric: str
    """What decides which epoch of a trial is best."""
    objectives: tuple[str, ...]
    """What trials are judged by: that metric, or several and costs."""
    directory: str
    """Every trial writes into its own number below it."""
    resources: dict[str, float] = field(default_factory=dict)
    """What each worker takes, by Ray's names, where a trial has several."""


@dataclass(frozen=True)
class Failure:
    """What ended a trial."""

    reason: str
    by_user: bool
    """Whether the config is at fault (a UserError), rather than numbers or machines."""
    traceback: str


DIED = Failure("the worker died, perhaps for lack of memory", False, "")
"""What is known of a trial whose process is gone."""


class Standing:
    """The best epoch of a trial so far, by the rule of the training loop."""

    def __init__(self, config: RunConfig, metric: str) -> None:
        """Take a config whose early stopping goes by the metric, as `candidate` gives it."""
        self.metric = metric
        self.value, self.epoch = math.nan, 0
        self.best: Metrics = {}
        """All metrics of the best epoch."""
        self.finished = False
        self._epochs = config.training.epochs
        self._patience = config.training.early_stopping.patience if config.training.early_stopping else self._epochs
        self._stale = 0

    def update(self, metrics: Metrics) -> bool:
        """Take in an epoch; return False if it was not validated.

        Raises:
            UserError: the metric is not among those measured, or it has no value on these data.
        """
        epoch = int(metrics["epoch"])
        measured = [name for name in metrics if "." in name]
        if not measured and epoch < self._epochs:
            return False
        if self.metric not in measured:
            known = ", ".join(measured) or "none, because no user has validation events"
            raise UserError(
                f"metric: {self.metric!r} is not measured{nearest(self.metric, measured)} (there are: {known})"
            )
        value = metrics[self.metric]
        if math.isnan(value):
            raise UserError(f"metric: {self.metric} has no value on the validation events of this dataset (nan)")
        sign = -1.0 if lower_is_better(self.metric) else 1.0
        if math.isnan(self.value) or sign * value > sign * self.value:
            self.value, self.epoch, self._stale, self.best = value, epoch, 0, metrics
        else:
            self._stale += 1
        self.finished = epoch >= self._epochs or self._stale >= self._patience
        return True


def candidate(base: Node, values: Mapping[str, Any], metric: str, where: str) -> RunConfig:
    """Return the resolved base with values at dotted paths, judged by the metric of the search."""
    for path in sorted(values, key=lambda path: not path.endswith("kind")):  # a kind brings defaults for its node
        base = set_path(base, path, values[path])
    return _judged_by(build(RunConfig, base, where), metric, where)


def run_trial(job: TrialJob, number: int, values: Mapping[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Train one configuration in its own directory, from where it was interrupted if it was: here, or by its workers.

    `report` is called after every validation and may end it; what came before an interruption is reported again.
    """
    from raysys.training.fit import run_loop
    from raysys.training.loop import read_safe_history
    from raysys.training.workers import run_workers

    directory = trial_directory(job.directory, number)
    directory.mkdir(parents=True, exist_ok=True)
    with _failure_recorded(directory):
        reporter = Reporter(job, number, values)

        def on_epoch(metrics: Metrics) -> None:
            if (told := reporter.told(metrics)) is not None:
                report(told)

        if reporter.config.training.num_workers > 1:
            run_workers(reporter.config, directory, on_epoch, job.resources)
            return
        for metrics in read_safe_history(directory):
            on_epoch(metrics)
        run_loop(reporter.config, directory, on_epoch)


class Reporter:
    """Says of every validated epoch of a trial how the trial stands."""

    def __init__(self, job: TrialJob, number: int, values: Mapping[str, Any]) -> None:
        """Take what all trials have in common, and what this one changes."""
        from raysys.training.fit import describe
        from raysys.training.start import resolve

        self.config = resolve(candidate(job.base, values, job.metric, f"trial {number}"))
        self.objectives = job.objectives
        self.directory = trial_directory(job.directory, number)
        self.standing = Standing(self.config, job.metric)
        self._parameters = describe(self.config)["parameters"] if "parameters" in job.objectives else 0

    def told(self, metrics: Metrics) -> dict[str, Any] | None:
        """Return the metrics of an epoch and what they mean; None if it was not validated."""
        standing = self.standing
        if not standing.update(metrics):
            return None
        costs = {"seconds": metrics["seconds"], "parameters": self._parameters}
        if LATENCY in self.objectives:
            costs[LATENCY] = self._latency()
        known = {**standing.best, **costs}
        own = {OBJECTIVE: standing.value, "best_epoch": standing.epoch, "finished": standing.finished}
        return {**metrics, **own, "objectives": [known[name] for name in self.objectives]}

    def _latency(self) -> float:
        """Measure at the first validated epoch and keep it: what the model has learned does not change the time."""
        from raysys.training.fit import measure_latency

        path = self.directory / _LATENCY
        if not path.is_file():
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(json.dumps({LATENCY: round(measure_latency(self.config, self.directory), 4)}))
            partial.replace(path)
        found: float = json.loads(path.read_text())[LATENCY]
        return found


def read_reports(job: TrialJob, number: int, values: Mapping[str, Any], epochs: int) -> list[dict[str, Any]]:
    """Return all that a trial has reported of so many epochs; its workers may have been ahead of the search."""
    from raysys.training.loop import read_history

    reporter = Reporter(job, number, values)
    found = [reporter.told(metrics) for metrics in read_history(reporter.directory, epochs)]
    return [told for told in found if told is not None]


def trial_directory(parent: str | Path, number: int) -> Path:
    """Return where a trial writes."""
    return Path(parent) / f"{number:03d}"


def read_failure(directory: Path) -> Failure | None:
    """Return what ended a trial that failed; None for any other."""
    path = directory / _ERROR
    return Failure(**json.loads(path.read_text())) if path.is_file() else None


def sweep(directory: Path) -> None:
    """Remove what a trial leaves behind, weights and checkpoints, but not its history and its error."""
    for path in directory.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in _KEPT:
            path.unlink(missing_ok=True)


@contextmanager
def _failure_recorded(directory: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # `candidate` wrote the search's metric there, so that is where the loop complains.
        reason = f"{type(error).__name__}: {error}".replace("training.early_stopping.metric: ", "metric: ")
        failure = Failure(reason, isinstance(error, UserError), traceback.format_exc())
        (directory / _ERROR).write_text(json.dumps(asdict(failure), indent=1))
        raise


def _judged_by(config: RunConfig, metric: str, where: str) -> RunConfig:
    """Let the metric also pick the best epoch: otherwise a run would keep other weights than the search looked at."""
    stopping = config.training.early_stopping
    if stopping is None:
        stopping = EarlyStopping(metric=metric, patience=config.training.epochs)  # never stops
    elif stopping.metric not in (None, metric):
        raise UserError(
            f"{where}: metric: {metric}, but training.early_stopping.metric of the base is {stopping.metric}; "
            "one metric must decide: write the same in both, or leave the base's out"
        )
    stopping = stopping.model_copy(update={"metric": metric})
    return config.model_copy(update={"training": config.training.model_copy(update={"early_stopping": stopping})})
