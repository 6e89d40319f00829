"""The trials of a search: Optuna's study is the one record of them, whatever happens to the process that runs it.

A trial keeps its own number when it goes on after an interruption; to Optuna it is then a new trial of the same
parameters, and the one before it has failed.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysys.component import kind_of
from raysys.errors import UserError
from tuning.plan import Plan
from tuning.report import Leaderboard, TrialRecord, record_of
from tuning.samplers import NUMBER
from tuning.searchers import SEARCHERS, Searcher, Sought
from tuning.stopping import Stopper
from tuning.storage import load_record, open_earlier, open_storage
from tuning.study import Study
from tuning.trial import Failure

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

_RECORD, _EARLIER, _REFUSED = "record", "from", "refused"  # attributes of Optuna's trials
_SPENT = "seconds"  # attribute of the study
_MOST_DRAWS = 100


@dataclass(frozen=True)
class Begun:
    """A trial that is to run."""

    number: int
    values: dict[str, Any]
    """By dotted path: what differs from the base."""


class Trials:
    """Proposes trials, and takes note of what comes of them before anyone is told."""

    def __init__(self, plan: Plan, study: "optuna.Study", on_change: Callable[[TrialRecord], None]) -> None:
        """Take up a study, new or interrupted; `on_change` is called with every record that changes."""
        self.plan, self.study, self.on_change = plan, study, on_change
        spent = study.user_attrs.get(_SPENT, 0.0)
        self.stopper = Stopper(plan.config.stop, plan.objectives.lower_is_better, spent=spent)
        self.board = Leaderboard(plan.objectives, plan.pick)
        self.fatal: str | None = None
        """Why the search cannot go on."""
        searcher = searcher_of(plan)
        most = searcher.most_trials(plan.space_of)
        self._prunes = searcher.knows_stopped and len(plan.objectives.metrics) == 1
        self._most_trials = min(plan.config.num_trials, plan.config.num_trials if most is None else most)
        self._running: dict[int, tuple[optuna.Trial, float]] = {}
        self._take_up()

    def _take_up(self) -> None:
        """Read what has ended; what was interrupted waits to go on."""
        from optuna.trial import TrialState

        trials = [trial for trial in self.study.get_trials(deepcopy=False) if _EARLIER not in trial.user_attrs]
        waiting = [trial.user_attrs.get(NUMBER) for trial in trials if trial.state == TrialState.WAITING]
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                number = trial.user_attrs.get(NUMBER)
                if number is not None and number not in waiting:  # before it fails: it must not get lost between
                    self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
                self.study.tell(trial.number, state=TrialState.FAIL)
            elif trial.state.is_finished() and _RECORD in trial.user_attrs:
                record = record_of(trial.user_attrs[_RECORD])
                self.board.trials[record.number] = record
                self.stopper.ended(None if record.status == "failed" else record.objectives)
        if not waiting and not any(NUMBER in trial.user_attrs for trial in trials):
            self.study.enqueue_trial(self.plan.space_of.default_params())

    @property
    def ended_numbers(self) -> list[int]:
        """The trials that will not go on."""
        return [number for number, record in self.board.trials.items() if record.status != "running"]

    @property
    def left(self) -> bool:
        """Whether trials are still to be begun, or to go on."""
        from optuna.trial import TrialState

        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return bool(waiting) or (self._num_begun() < self._most_trials and not self.stopper.reason())

    def begin(self) -> Begun | None:
        """Return the next trial; None when the search is over."""
        from optuna.trial import TrialState

        if self.fatal is not None or not self.left:
            return None
        for _ in range(_MOST_DRAWS):
            trial = self.study.ask()
            values = self.plan.space_of.suggest(trial)
            if NUMBER not in trial.user_attrs and not self._allowed(values):
                trial.set_user_attr(_REFUSED, True)
                self.study.tell(trial, state=TrialState.PRUNED)  # the searcher shall keep away from there
                continue
            return self._begun(trial, values)
        self.fatal = f"constraints: {_MOST_DRAWS} draws in a row broke them or made no valid config; narrow the space"
        return None

    def _allowed(self, values: dict[str, Any]) -> bool:
        try:
            return self.plan.allows(self.plan.candidate(values))
        except UserError:  # values that exclude each other
            return False

    def _begun(self, trial: "optuna.Trial", values: dict[str, Any]) -> Begun:
        number = trial.user_attrs.get(NUMBER)
        if number is None:
            number = self._num_begun()
            trial.set_user_attr(NUMBER, number)
        self._running[number] = trial, time.monotonic()
        record = TrialRecord(number, values)
        self.board.trials[number] = record
        self.on_change(record)
        return Begun(number, values)

    def _num_begun(self) -> int:
        taken = [trial.user_attrs[NUMBER] for trial in self.study.get_trials(deepcopy=False) if _own(trial.user_attrs)]
        return len(set(taken))

    def is_news(self, number: int, report: Mapping[str, Any]) -> bool:
        """Tell whether a report is of an epoch after those reported."""
        return report.get("epoch", 0) > self.board.trials[number].epochs

    def reported(self, number: int, report: Mapping[str, Any]) -> None:
        """A trial has validated an epoch."""
        record, (trial, _) = self.board.trials[number], self._running[number]
        record.objectives = tuple(report["objectives"])
        record.value = record.objectives[0]
        record.best_epoch, record.epochs = int(report["best_epoch"]), int(report["epoch"])
        record.status = "finished" if report["finished"] else "running"
        if len(record.objectives) == 1:
            trial.report(record.objectives[0], record.epochs)
        self.on_change(record)

    def ended(self, number: int, failure: Failure | None) -> None:
        """A trial is over: by itself, because the scheduler stopped it, or because of an error."""
        from optuna.trial import TrialState

        record, (trial, begun) = self.board.trials[number], self._running.pop(number)
        record.seconds = round(time.monotonic() - begun, 3)
        if failure is not None:
            record.status, record.reason = "failed", failure.reason
            if number == 0 and failure.by_user:
                self.fatal = failure.reason.removeprefix("UserError: ")
        elif record.status == "running":
            record.status = "stopped"
        trial.set_user_attr(_RECORD, asdict(record))
        self.study.set_user_attr(_SPENT, self.stopper.spent)
        if record.status == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
        elif record.status == "stopped" and self._prunes:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, list(record.objectives or ()))
        self.stopper.ended(None if record.status == "failed" else record.objectives)
        self.on_change(record)


def begin_record(plan: Plan, study: Study) -> "optuna.Study":
    """Make Optuna's record of a new search.

    Raises:
        UserError: the storage cannot be opened, or knows a search of that name.
    """
    import optuna

    storage = open_storage(study, plan.config.storage)
    try:
        return optuna.create_study(storage=storage, study_name=study.name, directions=plan.objectives.directions)
    except optuna.exceptions.DuplicatedStudyError:
        raise UserError(f"storage: {plan.config.storage} knows a search {study.name!r}; give another -o") from None


def open_record(plan: Plan, study: Study) -> "optuna.Study":
    """Return Optuna's record of a search that has begun, with what proposes its trials.

    Raises:
        UserError: the storage cannot be opened, or does not know the search.
    """
    return load_record(study, plan.config.storage, sampler_of(plan))


def searcher_of(plan: Plan) -> Searcher:
    """Return what proposes the trials of a search."""
    return SEARCHERS[kind_of(plan.config.searcher)](plan.config.searcher)


def sampler_of(plan: Plan) -> "BaseSampler":
    """Return what draws the parameters of its trials, and remembers nothing but what their record holds."""
    config = plan.config
    sought = Sought(plan.space_of, config.num_trials, len(plan.objectives.metrics), config.max_concurrent)
    return searcher_of(plan).sampler(config.seed, sought)


def add_earlier(plan: Plan, record: "optuna.Study", path: str | Path) -> int:
    """Let the sampler know the trials of an earlier search; returns how many fit into this one's space.

    Raises:
        UserError: there is no such search, or it was judged by other objectives.
    """
    import optuna

    earlier = open_earlier(path)
    names = earlier.user_attrs.get("objectives")
    if names != list(plan.objectives.metrics):
        said = ", ".join(names or ()) or "none that it names"
        raise UserError(f"--warm-start {path}: judged by {said}, this search by {', '.join(plan.objectives.metrics)}")
    added = 0
    for trial in earlier.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        fixed = optuna.trial.FixedTrial(trial.params)
        try:
            with warnings.catch_warnings(action="error"):  # of values out of range
                plan.space_of.suggest(fixed)
        except (ValueError, UserWarning):  # another space
            continue
        if fixed.params == trial.params and not any(map(math.isnan, trial.values)):
            known = optuna.create_trial(
                params=trial.params,
                distributions=fixed.distributions,
                values=trial.values,
                user_attrs={_EARLIER: earlier.study_name},
            )
            record.add_trial(known)
            added += 1
    return added


def _own(attributes: Mapping[str, Any]) -> bool:
    return NUMBER in attributes and _EARLIER not in attributes
