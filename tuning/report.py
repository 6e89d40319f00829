"""The leaderboard of a search: every trial with its values and what came of it, the best first."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from raysys.progress import console
from tuning.objectives import Objectives, Pick

Status = Literal["running", "finished", "stopped", "failed"]
STATUSES: tuple[Status, ...] = ("running", "finished", "stopped", "failed")
_SHOWN = 20


@dataclass
class TrialRecord:
    """What is known of a trial."""

    number: int
    values: dict[str, Any]
    """By dotted path: what differs from the base."""
    status: Status = "running"
    """Stopped: the scheduler ended it. Failed: it raised an error, or its worker died."""
    value: float | None = None
    """The metric of the search, or the first of several objectives, at the trial's best epoch."""
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str | None = None
    """Why it failed."""
    objectives: tuple[float, ...] | None = None
    """All objectives, in the order of the config."""
    verified: tuple[float, ...] | None = None
    """The same on all users, where trials had only a share of them and this one was among the best."""
    verified_epoch: int | None = None
    """The best epoch on all users."""


def record_of(node: Mapping[str, Any]) -> TrialRecord:
    """Return a record from the plain values that `asdict` made of it."""
    several = {name: tuple(node[name]) for name in ("objectives", "verified") if node[name] is not None}
    return TrialRecord(**{**node, **several})


class Leaderboard:
    """The trials of a search."""

    def __init__(self, objectives: Objectives, pick: Pick) -> None:
        self.objectives, self.pick = objectives, pick
        self.trials: dict[int, TrialRecord] = {}

    @property
    def metric(self) -> str:
        """What trials are ranked by: the first objective."""
        return self.objectives.metrics[0]

    def ranked(self) -> list[TrialRecord]:
        """Return all trials, best first; failed ones last, whatever they had reached."""
        return ranked(self.trials.values(), self.objectives.lower_is_better[0])

    @property
    def best(self) -> TrialRecord | None:
        """The best trial that has ended well, of those that were verified if some were.

        Of several objectives the rule picks it.

        Raises:
            UserError: no trial is within the limits of the rule.
        """
        verified = {one.number: one.verified for one in self.trials.values() if one.verified}
        points = verified or {one.number: one.objectives or () for one in self.ended()}
        number = self.objectives.pick(self.pick, points)
        return None if number is None else self.trials[number]

    def ended(self) -> list[TrialRecord]:
        """Return the trials that have ended well, best first."""
        return [trial for trial in self.ranked() if trial.status in ("finished", "stopped") and trial.objectives]

    def counts(self) -> dict[Status, int]:
        """Return how many trials there are of each status."""
        found = [trial.status for trial in self.trials.values()]
        return {status: found.count(status) for status in STATUSES}

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for files and --json."""
        trials = [asdict(trial) for trial in self.ranked()]
        names = {"metric": self.metric, "lower_is_better": self.objectives.lower_is_better[0]}
        return {**names, "objectives": list(self.objectives.metrics), "trials": trials}


def ranked(records: Iterable[TrialRecord], lower_is_better: bool) -> list[TrialRecord]:
    """Return trials by their value, best first; failed ones last, whatever they had reached."""

    def rank(trial: TrialRecord) -> tuple[bool, float, int]:
        value = math.inf if trial.value is None else trial.value if lower_is_better else -trial.value
        return trial.status == "failed", value, trial.number

    return sorted(records, key=rank)


def print_leaderboard(board: Leaderboard) -> None:
    """Print the best trials on stderr."""
    wide = console if console.is_terminal else Console(stderr=True, width=160, highlight=False)
    wide.print(leaderboard_table(board))


def leaderboard_table(board: Leaderboard) -> Table:
    """Return the best trials as a table."""
    trials = board.ranked()
    table = Table(title=f"{len(trials)} trials by {board.metric}, best first", title_justify="left")
    paths = list(dict.fromkeys(path for trial in trials for path in trial.values))
    for column in ("trial", "status", *board.objectives.metrics, "epoch", *short_names(paths), "seconds"):
        table.add_column(column, justify="left" if column == "status" else "right", overflow="fold")
    for trial in trials[:_SHOWN]:
        at = f"{trial.best_epoch or '-'} of {trial.epochs}"
        found = trial.objectives or (None,) * len(board.objectives.metrics)
        values = [show(trial.values.get(path)) for path in paths]  # of other kinds there are none
        table.add_row(str(trial.number), trial.status, *map(show, found), at, *values, f"{trial.seconds:.1f}")
    return table


def short_names(paths: list[str]) -> list[str]:
    """Return the shortest ends of dotted paths that still tell them apart."""
    names = []
    for path in paths:
        steps = path.split(".")
        ends = [".".join(steps[-count:]) for count in range(1, len(steps) + 1)]
        others = [f".{other}" for other in paths if other != path]
        names.append(next((end for end in ends if not any(o.endswith(f".{end}") for o in others)), path))
    return names


def show(value: Any) -> str:
    """Return a value in a form for people."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
