"""Replays searches on a recorded table of configurations: the searcher and the scheduler are real, trainings are read.

What the searcher proposes is taken to the nearest configuration of the table that the search has not had, and the
searcher is told of that one, not of its proposal. Nearest is by the Euclidean distance in the unit cube of Optuna's
parameters: numbers between their bounds, on a log scale where they are drawn on one; choices that differ are 1 apart;
a parameter that only one of the two has, because their kinds differ, adds nothing to the 1 of the kinds. Or, if it is
asked to, the searcher itself chooses among these configurations (`_choosing.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _choosing import Chooser

from raysys.config import RunConfig
from raysys.configfile import build
from tuning.config import TuneConfig
from tuning.plan import Plan
from tuning.search import scheduler_of
from tuning.trial import OBJECTIVE, Standing
from tuning.trials import Begun, Trials, sampler_of

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]
Epoch = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A configuration whose training was recorded."""

    number: int
    params: Params
    """Optuna's parameters, conditional ones only where they apply."""
    curve: tuple[Epoch, ...]
    """Validation metrics of every epoch."""


@dataclass
class Replayed:
    """A trial of a replayed search."""

    row: Row
    values: list[float] = field(default_factory=list)
    """The first objective at the best epoch so far, after every epoch that the scheduler let run."""
    objectives: tuple[float, ...] = ()
    """All objectives when it ended."""


def read_rows(path: Path) -> list[Row]:
    """Return the configurations of a table that were trained to their end."""
    found = json.loads(path.read_text())["rows"]
    return [Row(one["number"], one["params"], tuple(one["curve"])) for one in found if one["failed"] is None]


def read_search(node: Mapping[str, Any]) -> Plan:
    """Return a search without looking at its dataset, which a replay does not need."""
    base = build(RunConfig, node["base"], "base").model_dump(mode="json")
    return Plan(build(TuneConfig, {**node, "base": base}, "search"), base, "search", base["training"]["epochs"])


def replay(plan: Plan, rows: Sequence[Row], first: Row | None = None, choosing: bool = False) -> Iterator[Replayed]:
    """Run a search on the table, one trial at a time, until it ends or has had every row.

    It begins with the row nearest to the base of the search, or with another as if that were the base. Then each trial
    is the row nearest to a proposal, or `choosing` the row that the searcher itself would take.
    """
    trials = _OnTable(plan, rows, first, choosing)
    scheduler = scheduler_of(plan)
    while trials.rows_left and (begun := trials.begin()) is not None:
        yield _run(trials, scheduler, begun)


def _run(trials: _OnTable, scheduler: Any, begun: Begun) -> Replayed:
    told = Replayed(trials.row_of[begun.number])
    trial: Any = _TunesTrial(str(begun.number))
    scheduler.on_trial_add(None, trial)
    for report in _reports(trials.plan, told.row):
        trials.reported(begun.number, report)
        told.values.append(report["objectives"][0])
        if scheduler.on_trial_result(None, trial, report) == scheduler.STOP or report["finished"]:
            break
    scheduler.on_trial_complete(None, trial, report)
    told.objectives = tuple(report["objectives"])
    trials.ended(begun.number, None)
    return told


def _reports(plan: Plan, row: Row) -> Iterator[dict[str, Any]]:
    """Yield what a trial of the row reports, as `tuning.trial.Reporter` says it."""
    standing = Standing(plan.candidate({}), plan.metric)
    for epoch, metrics in enumerate(row.curve, 1):
        standing.update({"epoch": epoch, **metrics})
        own = {OBJECTIVE: standing.value, "best_epoch": standing.epoch, "finished": standing.finished}
        yield {"epoch": epoch, **own, "objectives": [standing.best[name] for name in plan.objectives.metrics]}


def objectives_of(plan: Plan, row: Row) -> tuple[float, ...]:
    """Return what a search sees of a row whose trial runs to its end."""
    *_, last = _reports(plan, row)
    return tuple(last["objectives"])


@dataclass(frozen=True)
class _TunesTrial:
    """As much of a trial as schedulers of Ray Tune look at."""

    trial_id: str


class _OnTable(Trials):
    """The trials of a search, each of them a row of the table."""

    def __init__(self, plan: Plan, rows: Sequence[Row], first: Row | None, choosing: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sampler = sampler_of(plan)
        self.given = optuna.samplers.RandomSampler()  # draws nothing: all parameters of a row are given
        self.domains: dict[str, BaseDistribution] = {}
        for path, part in plan.space_of.parts.items():
            self.domains |= part.domains(path)
        self.rows_left, self.first = list(rows), first
        self.chooser: Chooser | None = None
        if choosing:
            self.chooser = Chooser(plan.config.seed, self.domains)
            self.chooser.params = [row.params for row in rows]
            self.sampler = self.chooser.sampler(self.sampler)
        self.row_of: dict[int, Row] = {}
        super().__init__(
            plan,
            optuna.create_study(sampler=self.sampler, directions=plan.objectives.directions),
            lambda record: None,
        )

    def _allowed(self, values: dict[str, Any]) -> bool:
        return self.chooser is not None or super()._allowed(values)  # rows are, whatever was proposed in their place

    def _begun(self, trial: optuna.Trial, values: dict[str, Any]) -> Begun:
        """Put a row in the place of a proposal, which leaves no trace in the study but a failed trial."""
        from optuna.trial import TrialState

        row = self._row_for(trial)
        self.rows_left.remove(row)
        if self.chooser is not None:
            self.chooser.params = [left.params for left in self.rows_left]
        self.study.tell(trial, state=TrialState.FAIL)
        self.study.enqueue_trial(row.params)
        self.study.sampler = self.given
        taken = self.study.ask()
        begun = super()._begun(taken, self.plan.space_of.suggest(taken))
        self.study.sampler = self.sampler
        self.row_of[begun.number] = row
        return begun

    def _row_for(self, trial: optuna.Trial) -> Row:
        if self.row_of and self.chooser is not None:
            return self.rows_left[self.chooser.choose()]
        if self.first is not None and not self.row_of:
            return self.first
        return min(self.rows_left, key=lambda row: distance(trial.params, row.params, self.domains))


def distance(one: Params, other: Params, domains: Mapping[str, BaseDistribution]) -> float:
    """Return how far apart two configurations are; see above."""
    return math.sqrt(sum(_gap(one[name], other[name], domains[name]) ** 2 for name in one.keys() & other.keys()))


def _gap(one: Any, other: Any, domain: BaseDistribution) -> float:
    from optuna.distributions import CategoricalDistribution

    if isinstance(domain, CategoricalDistribution):
        return float(one != other)
    scale: Any = math.log if getattr(domain, "log", False) else float
    low, high = (scale(bound) for bound in (domain.low, domain.high))  # type: ignore[attr-defined]
    return abs(scale(one) - scale(other)) / (high - low) if high > low else 0.0


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the area that two objectives, higher better, cover above a reference point."""
    area, covered = 0.0, reference[1]
    for first, second in sorted(points, reverse=True):
        area += max(first - reference[0], 0.0) * max(second - covered, 0.0)
        covered = max(covered, second)
    return area
