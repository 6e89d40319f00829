"""Follows the trials of a search: keeps the study's leaderboard up to date and tells people how it goes."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.status import Status as LiveStatus

from raysys.errors import UserError
from raysys.progress import console
from tuning.plan import Plan
from tuning.report import Leaderboard, TrialRecord, short_names, show
from tuning.study import Study
from tuning.trial import OBJECTIVE, read_failure, sweep, trial_directory


class Observer:
    """Told of every event of every trial."""

    def __init__(self, plan: Plan, study: Study) -> None:
        self.plan, self.study = plan, study
        self.board = Leaderboard(plan.config.metric, plan.lower_is_better)
        self._started: dict[int, float] = {}
        self._live: LiveStatus | None = console.status("starting trials") if console.is_terminal else None

    def __enter__(self) -> "Observer":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, number: int, values: Mapping[str, Any]) -> None:
        """A trial begins."""
        self._started[number] = time.perf_counter()
        self.board.trials[number] = TrialRecord(number, {path: values[path] for path in self.plan.space})
        self._show(number)

    def reported(self, number: int, report: Mapping[str, Any]) -> None:
        """A trial has validated an epoch."""
        trial = self.board.trials[number]
        trial.value, trial.best_epoch = report[OBJECTIVE], report["best_epoch"]
        trial.epochs, trial.status = int(report["epoch"]), "finished" if report["finished"] else "running"
        self._show(number)

    def ended(self, number: int) -> None:
        """A trial is over: by itself, or because the scheduler stopped it."""
        trial = self.board.trials[number]
        if trial.status == "running":
            trial.status = "stopped"
        self._close(trial)

    def failed(self, number: int) -> None:
        """A trial is over because of an error; the search goes on.

        Raises:
            UserError: the base itself cannot be trained as the search wants it, so no other trial could be.
        """
        trial, failure = self.board.trials[number], read_failure(trial_directory(self.study.trials, number))
        if number == 0 and failure.by_user:
            raise UserError(f"{self.plan.where}: {failure.reason.removeprefix('UserError: ')}")
        trial.status, trial.reason = "failed", failure.reason
        self._close(trial)

    def _close(self, trial: TrialRecord) -> None:
        trial.seconds = round(time.perf_counter() - self._started[trial.number], 3)
        sweep(trial_directory(self.study.trials, trial.number))
        self.study.write_leaderboard(self.board)
        console.print(f"  {self._line(trial)}", soft_wrap=True, markup=False)

    def _line(self, trial: TrialRecord) -> str:
        names = short_names(list(trial.values))
        values = " ".join(f"{name}={show(value)}" for name, value in zip(names, trial.values.values(), strict=True))
        if trial.status == "failed":
            found = (trial.reason or "").splitlines()[0]
        else:
            found = f"{self.board.metric} {show(trial.value)} at epoch {trial.best_epoch} of {trial.epochs}"
        mark = ", the best so far" if self.board.best is trial else ""
        ended = sum(other.status != "running" for other in self.board.trials.values())
        head = f"{ended}/{self.plan.config.num_trials} trial {trial.number} {trial.status}"
        return f"{head}: {found}{mark} ({values}; {trial.seconds:.1f} s)"

    def _show(self, number: int) -> None:
        if self._live is None:
            return
        best = self.board.best
        tail = f", best {self.board.metric} {show(best.value)}" if best is not None else ""
        epochs = self.board.trials[number].epochs
        self._live.update(f"trial {number} of {self.plan.config.num_trials}: {epochs} epochs{tail}")
