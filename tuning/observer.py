"""Tells people how a search goes: a live table on a terminal, a line for every trial elsewhere."""

import time
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.table import Table

from raysys.progress import console
from tuning.plan import Plan
from tuning.report import Leaderboard, TrialRecord, short_names, show
from tuning.study import Study

_SHOWN = 6


class Observer:
    """Told of every change of every trial; keeps the study's leaderboard up to date."""

    def __init__(self, plan: Plan, study: Study) -> None:
        self.plan, self.study = plan, study
        self.board = Leaderboard(plan.objectives, plan.pick)
        self._begun = time.monotonic()
        self._ended_before = 0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def watch(self, board: Leaderboard) -> None:
        """Take up the trials of a search that goes on."""
        self.board, self._ended_before = board, _num_ended(board)

    def __enter__(self) -> "Observer":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, trial: TrialRecord) -> None:
        """A trial has begun, validated an epoch, or ended."""
        if trial.seconds:
            self.study.write_leaderboard(self.board)
            console.print(f"  {self._line(trial)}", soft_wrap=True, markup=False)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _line(self, trial: TrialRecord) -> str:
        names = short_names(list(trial.values))
        values = " ".join(f"{name}={show(value)}" for name, value in zip(names, trial.values.values(), strict=True))
        if trial.status == "failed":
            found = (trial.reason or "").splitlines()[0]
        else:
            pairs = zip(self.board.objectives.metrics, trial.objectives or (), strict=False)
            told = ", ".join(f"{name} {show(value)}" for name, value in pairs)
            found = f"{told} at epoch {trial.best_epoch} of {trial.epochs}"
        leads = len(self.board.objectives.metrics) == 1 and self.board.best is trial
        mark = ", the best so far" if leads else ""
        head = f"{_num_ended(self.board)}/{self.plan.config.num_trials} trial {trial.number} {trial.status}"
        return f"{head}: {found}{mark} ({values}; {trial.seconds:.1f} s)"

    def _table(self) -> Group:
        """Return how the search stands: counts, time left, the trials that run and the best."""
        board, config = self.board, self.plan.config
        counts = ", ".join(f"{count} {status}" for status, count in board.counts().items() if count)
        table = Table()
        for name in ("trial", "status", "epoch", *board.objectives.metrics):
            table.add_column(name, justify="left" if name == "status" else "right")
        running = [trial for trial in board.trials.values() if trial.status == "running"]
        for trial in [*running, *board.ended()[: _SHOWN - 1]]:
            epoch = f"{trial.epochs} of {self.plan.most_epochs}" if trial.status == "running" else str(trial.best_epoch)
            found = trial.objectives or (None,) * len(board.objectives.metrics)
            table.add_row(str(trial.number), trial.status, epoch, *map(show, found))
        return Group(f"{counts} of {config.num_trials} trials{self._left()}", table)

    def _left(self) -> str:
        """Return the time that the rest will take at the pace so far."""
        ended = _num_ended(self.board)
        if ended == self._ended_before:
            return ""
        pace = (time.monotonic() - self._begun) / (ended - self._ended_before)
        minutes, seconds = divmod(round(pace * (self.plan.config.num_trials - ended)), 60)
        return f", about {minutes} min {seconds:02d} s left" if minutes else f", about {seconds} s left"


def _num_ended(board: Leaderboard) -> int:
    return sum(trial.status != "running" for trial in board.trials.values())
