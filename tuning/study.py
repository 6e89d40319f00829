"""The directory of a search. `best.yaml` is written last: a study that has it is complete."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from raysys.config import RunConfig
from raysys.configfile import dump_yaml
from raysys.errors import UserError
from raysys.runs import new_directory
from tuning.config import TuneConfig
from tuning.report import Leaderboard
from tuning.trial import sweep, trial_directory


class Study:
    """Where a search writes.

    tune.yaml           the search, with the resolved base inside: `raysys tune` runs it again
    study.journal       Optuna's record of proposals and values, where the config names no other storage
    trials/NNN/         history.jsonl of every trial
    leaderboard.json    all trials, kept up to date
    tuning.html         the search as one page
    best.yaml           the best config, for `raysys train`
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def create(root: str, project: str, output: str | Path | None = None) -> "Study":
        """Make the directory of a new study: ROOT/studies/PROJECT/TIME unless it is given.

        Raises:
            UserError: the given directory holds something.
        """
        study = Study(new_directory(root, "studies", project, output))
        study.trials.mkdir()
        return study

    @staticmethod
    def open(path: str | Path) -> "Study":
        """Return the study in a directory.

        Raises:
            UserError: there is none.
        """
        study = Study(Path(path).absolute())
        if not (study.path / "tune.yaml").is_file() or not study.trials.is_dir():
            raise UserError(f"{path}: no study; it is the directory that raysys tune writes (tune.yaml, trials)")
        return study

    @property
    def name(self) -> str:
        """The name of its record among those of other searches."""
        return f"{self.path.parent.name}/{self.path.name}"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process of this machine run the search meanwhile.

        Raises:
            UserError: one does.
        """
        lock = FileLock(self.trials / ".lock", timeout=0)  # given back by the system however its holder ends
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.path}: another process runs this search; wait for it, or end it") from None
        try:
            yield
        finally:
            lock.release()

    @property
    def journal(self) -> Path:
        """Optuna's storage."""
        return self.path / "study.journal"

    @property
    def trials(self) -> Path:
        """The directory above those of the trials."""
        return self.path / "trials"

    @property
    def leaderboard(self) -> Path:
        """All trials."""
        return self.path / "leaderboard.json"

    @property
    def best(self) -> Path:
        """The config that the search found."""
        return self.path / "best.yaml"

    def write_config(self, config: TuneConfig) -> None:
        """Write what is searched."""
        _write(self.path / "tune.yaml", dump_yaml(config.model_dump(mode="json")))

    def write_leaderboard(self, board: Leaderboard) -> None:
        """Write how the trials stand."""
        _write(self.leaderboard, json.dumps(board.to_json(), indent=1))

    def write_best(self, config: RunConfig, remark: str) -> None:
        """Write the best config, with a remark at its head."""
        _write(self.best, f"# {remark}\n{dump_yaml(config.model_dump(mode='json'))}")

    def sweep(self, number: int) -> None:
        """Remove what a trial that has ended leaves behind, weights and checkpoints."""
        sweep(trial_directory(self.trials, number))

    def write_page(self, page: str) -> None:
        """Write the page of the search."""
        _write(self.path / "tuning.html", page)

    def summary(self, board: Leaderboard) -> dict[str, Any]:
        """Return the outcome as plain values, for --json."""
        return {"best": str(self.best), "study": str(self.path), **board.to_json()}


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
