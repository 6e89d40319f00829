"""Run directories, and the aliases that point at them: append-only records under a lock.

A run exists when its `run.json` does; that file is written last. Nothing here is pickled.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from raysys.errors import UserError, nearest
from raysys.exported import OWN_DATASET, Exported, load_network

if TYPE_CHECKING:  # torch and pyarrow load only when a run is opened, so that `raysys runs list` answers at once
    from raysys.config import RunConfig
    from raysys.data.catalog import Catalog
    from raysys.data.dataset import Manifest
    from raysys.data.vocabulary import Vocabulary
    from raysys.evaluation.calibration.of_tasks import Calibrators
    from raysys.tasks.multitask import MultiTask

RECORD = "run.json"
VALUES = "values.json"


class RunRecord(BaseModel):
    """The facts of a finished run."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    project: str
    created: datetime
    seconds: float
    epochs: int
    best_epoch: int
    steps: int
    parent: str | None
    dataset: str
    dataset_version: str
    dataset_fingerprint: str
    parameters: int
    valid: dict[str, float]
    test: dict[str, float]
    versions: dict[str, str]
    exported: Exported | None = None
    """Of a run that `raysys export` made of another one."""


@dataclass(frozen=True)
class Recommendation:
    """One recommended item."""

    item_id: str
    title: str | None
    score: float


class Run:
    """A finished run, opened for reading. Whatever is heavy loads when first used."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record

    @staticmethod
    def open(path: str | Path) -> "Run":
        """Open a run directory.

        Raises:
            UserError: the directory is not a finished run.
        """
        path = Path(path)
        if not (path / RECORD).is_file():
            state = "an unfinished run: finish it with `raysys train --resume`" if _unfinished(path) else "not a run"
            raise UserError(f"{path}: {state} (no {RECORD})")
        try:
            record = RunRecord.model_validate_json((path / RECORD).read_text())
        except ValidationError as error:
            raise UserError(f"{path / RECORD}: not a record of raysys: {str(error).splitlines()[0]}") from None
        own = {"dataset": str(path.absolute())} if record.dataset == OWN_DATASET else {}
        return Run(path, record.model_copy(update=own))

    @cached_property
    def config(self) -> "RunConfig":
        """The resolved config that the run was trained with."""
        from raysys.config import RunConfig
        from raysys.configfile import build, read_yaml

        return build(RunConfig, read_yaml(self.path / "config.yaml"), str(self.path / "config.yaml"))

    @cached_property
    def manifest(self) -> "Manifest":
        """The manifest of the dataset version that the run saw."""
        from raysys.data.dataset import Manifest

        return Manifest.model_validate_json((self.path / "dataset.json").read_text())

    @cached_property
    def vocabulary(self) -> "Vocabulary":
        """The item vocabulary that the model's indices mean."""
        from raysys.data.vocabulary import Vocabulary

        return Vocabulary.load(self.path / "vocabulary.arrow")

    @cached_property
    def catalog(self) -> "Catalog":
        """Titles and popularity of the items."""
        from raysys.data.catalog import Catalog

        return Catalog.load(self.path / "catalog.arrow")

    @cached_property
    def values(self) -> dict[str, dict[str, list[str]]]:
        """The values of each category, of the `context` and of `users`, in the order of the model's indices.

        Raises:
            UserError: the run is of an earlier raysys, which did not keep them.
        """
        path = self.path / VALUES
        if not path.is_file():
            raise UserError(f"RUN {self.path}: no {VALUES}: made by an earlier raysys; train it again to serve it")
        found: dict[str, dict[str, list[str]]] = json.loads(path.read_text())
        return found

    @cached_property
    def network(self) -> "MultiTask":
        """The trained model, in evaluation mode on the CPU.

        Raises:
            UserError: it is an export that cannot be run here.
        """
        return load_network(self.path, self.config, self.manifest, self.record.exported)

    @cached_property
    def calibrators(self) -> "Calibrators":
        """What makes the probabilities of the tasks agree with rates, by task; empty where none predicts them."""
        from raysys.evaluation.calibration.of_tasks import read_calibrators

        return read_calibrators(self.path)

    @property
    def reports(self) -> list[dict[str, Any]]:
        """The evaluations that the run ended with, as plain values."""
        return json.loads((self.path / "report.json").read_text())

    def recommend(self, history: Sequence[str], k: int = 10, exclude_seen: bool = True) -> list[Recommendation]:
        """Return the k best items after a history of item ids, oldest first; unknown ids are passed over."""
        import numpy as np

        from raysys.data.batches import make_queries
        from raysys.data.reader import history_rows
        from raysys.data.schema import Split
        from raysys.evaluation.ranking import ModelScorer, recommend

        if k < 1:
            raise UserError(f"k: {k}; ask for at least one item")
        rows, length = history_rows([self.vocabulary.lookup(history)]), self.config.model.max_length
        queries = make_queries(rows, Split.NONE, np.array([True]), length)
        found = recommend(ModelScorer(self.network), queries, k, exclude_seen)
        chosen = found.items_BK[0][found.scores_BK[0] > -float("inf")].numpy()
        titles, ids = self.catalog.titles(chosen), self.vocabulary.decode(chosen).to_pylist()
        scores = found.scores_BK[0].tolist()
        return [Recommendation(item, title, score) for item, title, score in zip(ids, titles, scores, strict=False)]


def new_directory(root: str, folder: str, project: str, output: str | Path | None = None) -> Path:
    """Make the directory of a new run or study: ROOT/FOLDER/PROJECT/TIME unless it is given.

    Raises:
        UserError: the given directory holds something.
    """
    if output is not None:
        path = Path(output)
        if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
            raise UserError(
                f"-o {path}: exists and is not empty; give another path (an unfinished run goes on with --resume)"
            )
        path.mkdir(parents=True, exist_ok=True)
        return path.absolute()
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    parent = Path(root) / folder / project
    for number in range(1000):
        path = parent / (f"{stamp}-{number}" if number else stamp)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path.absolute()
    raise AssertionError("a thousand runs in one second")


def list_runs(root: str, project: str | None = None) -> list[Run]:
    """Return the finished runs under a root, oldest first."""
    found = sorted(Path(root).glob(f"runs/{project or '*'}/*/{RECORD}"), key=lambda path: (path.parent.name, str(path)))
    return [Run.open(path.parent) for path in found]


def find_run(reference: str | Path, root: str) -> Run:
    """Open what a RUN names: a directory, a run id, or project@alias.

    Raises:
        UserError: nothing of that name exists; the message lists what does.
    """
    text = str(reference)
    if Path(text).is_dir():
        return Run.open(text)
    if "@" in text:
        project, _, alias = text.partition("@")
        return find_run(_current(root, project, alias), root)
    runs = list_runs(root)
    for run in runs:
        if run.record.run_id == text:
            return run
    ids = [run.record.run_id for run in runs]
    known = f" (under {root}: {', '.join(ids[-5:])})" if ids else f" (there are no runs under {root})"
    raise UserError(f"RUN {text!r}: no such directory, run id or project@alias{nearest(text, ids)}{known}")


def promote(run: Run, root: str, alias: str = "champion") -> None:
    """Point `project@alias` at a run. Whoever follows the alias takes it from then on."""
    if not alias.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"alias {alias!r}: letters, digits, - and _ only")
    if not (Path(root) / "runs" / run.record.project / run.record.run_id).is_dir():
        place = str(run.path)  # a run written elsewhere with -o is found by its path
    else:
        place = run.record.run_id
    _append(root, run.record.project, {"alias": alias, "run": place})


def rollback(root: str, project: str, alias: str = "champion") -> str:
    """Point an alias back at the run before the current one, and return that run.

    Raises:
        UserError: the alias has never pointed anywhere else.
    """
    targets = [record["run"] for record in _records(root, project) if record["alias"] == alias]
    earlier = [target for target in targets if targets and target != targets[-1]]
    if not earlier:
        raise UserError(f"{project}@{alias}: there is no earlier run to go back to")
    _append(root, project, {"alias": alias, "run": earlier[-1], "rollback_of": targets[-1]})
    return earlier[-1]


def aliases(root: str, project: str) -> dict[str, str]:
    """Return where each alias of a project points now."""
    return {record["alias"]: record["run"] for record in _records(root, project)}


def _current(root: str, project: str, alias: str) -> str:
    known = aliases(root, project)
    if alias not in known:
        names = ", ".join(f"{project}@{name}" for name in known) or "none"
        raise UserError(
            f"RUN {project}@{alias}: no such alias under {root} (there are: {names}); "
            f"set it with `raysys runs promote RUN --alias {alias}`"
        )
    return known[alias]


def _records(root: str, project: str) -> Iterator[dict[str, Any]]:
    path = Path(root) / "aliases" / f"{project}.jsonl"
    if path.is_file():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def _append(root: str, project: str, record: dict[str, Any]) -> None:
    path = Path(root) / "aliases" / f"{project}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": datetime.now(UTC).isoformat(), **record}) + "\n"
    with FileLock(f"{path}.lock"), path.open("a") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _unfinished(path: Path) -> bool:
    return (path / "config.yaml").is_file()
