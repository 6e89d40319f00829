"""The directory of a search. `best.yaml` is written last: a study that has it is complete."""

import json
import os
from pathlib import Path
from typing import Any

from raysys.config import RunConfig
from raysys.configfile import dump_yaml
from raysys.runs import new_directory
from tuning.config import TuneConfig
from tuning.report import Leaderboard
from tuning.trial import sweep


class Study:
    """Where a search writes.

    tune.yaml           the search, with the resolved base inside: `raysys tune` runs it again
    study.journal       Optuna's record of proposals and values
    trials/NNN/         history.jsonl of every trial
    leaderboard.json    all trials, kept up to date
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
        return Study(new_directory(root, "studies", project, output))

    @property
    def journal(self) -> Path:
        """Optuna's storage."""
        return self.path / "study.journal"

    @property
    def trials(self) -> Path:
        """The directory above those of the trials."""
        return self.path / "trials"

    @property
    def best(self) -> Path:
        """The config that the search found."""
        return self.path / "best.yaml"

    def write_config(self, config: TuneConfig) -> None:
        """Write what is searched."""
        _write(self.path / "tune.yaml", dump_yaml(config.model_dump(mode="json")))

    def write_leaderboard(self, board: Leaderboard) -> None:
        """Write how the trials stand."""
        _write(self.path / "leaderboard.json", json.dumps(board.to_json(), indent=1))

    def write_best(self, config: RunConfig, remark: str) -> None:
        """Write the best config, with a remark at its head."""
        _write(self.best, f"# {remark}\n{dump_yaml(config.model_dump(mode='json'))}")

    def sweep(self) -> None:
        """Remove what interrupted trials have left."""
        for directory in self.trials.glob("*"):
            sweep(directory)

    def summary(self, board: Leaderboard) -> dict[str, Any]:
        """Return the outcome as plain values, for --json."""
        return {"best": str(self.best), "study": str(self.path), **board.to_json()}


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
