"""The search of examples/kuairand with six of its tasks, over weighting methods too: for `tune_winner.py`.

It is `raysys tune`, one trial at a time and without Ray: the same space, searcher and constraints, the base first. It
knows from the start, as by --warm-start, what was trained on all users with the first seed, and the recorded table,
whose values on a quarter of the users are moved by what the configurations that are in both have more on all. Run by
itself this file trains one trial.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import _replay
import tune_table
from quality import run_alone

if TYPE_CHECKING:
    from tuning.plan import Plan
    from tuning.trials import Trials

Told = dict[str, Any]
"""`values` of a configuration, by path, and what it has on `valid`, by metric."""


def read_search(root: Path) -> Plan:
    """Return the search, checked."""
    from tuning.plan import read_plan

    return read_plan(tune_table.without_a_task(tune_table.FOLDER / "tune.yaml"), root=str(root))


def known_of(plan: Plan, table: Sequence[_replay.Row], full: Mapping[int, Told], others: Sequence[Told]) -> list[Told]:
    """Return what the search knows: the table, of which `full` were trained on all users too by number, and others."""
    small = _replay.read_search(tune_table.table_node())
    names = plan.objectives.metrics
    points = {row.number: dict(zip(names, _replay.objectives_of(small, row), strict=True)) for row in table}
    more = {name: statistics.fmean(one["valid"][name] - points[at][name] for at, one in full.items()) for name in names}
    moved = [
        {
            "values": small.space_of.values(row.params),
            "valid": {name: value + more[name] for name, value in points[row.number].items()},
        }
        for row in table
        if row.number not in full
    ]
    return [*full.values(), *others, *moved]


def search(plan: Plan, known: Sequence[Told], recorded: Sequence[Told], count: int, root: Path) -> Iterator[Told]:
    """Go on after the recorded trials until there are so many; yields each as it ends."""
    trials = _begin(plan, known)
    for told in recorded:
        if trials.board.trials:
            trials.study.enqueue_trial(_params(plan, told["values"]))
        _end(trials, told, trials.begin())
    while len(trials.board.trials) < count and (begun := trials.begin()) is not None:
        told = _train_alone(plan, begun.number, begun.values, root)
        _end(trials, told, begun)
        yield told


def _begin(plan: Plan, known: Sequence[Told]) -> Trials:
    import optuna

    from tuning.trials import Trials, sampler_of

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler_of(plan), directions=plan.objectives.directions)
    domains = plan.space_of.domains()
    for told in known:
        params = _params(plan, told["values"])
        if "weighting.kind" not in params:  # of a method that the space does not offer
            continue
        distributions = {name: domains[name] for name in params}
        objectives = [told["valid"][name] for name in plan.objectives.metrics]
        attributes = {"from": "known"}
        study.add_trial(
            optuna.create_trial(params=params, distributions=distributions, values=objectives, user_attrs=attributes)
        )
    return Trials(plan, study, lambda record: None)


def _params(plan: Plan, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return Optuna's parameters of a configuration."""
    from tuning.space import Space

    return Space(plan.config.space, plan.candidate(values).model_dump(mode="json")).default_params()


def _end(trials: Trials, told: Told, begun: Any) -> None:
    objectives = [told["valid"][name] for name in trials.plan.objectives.metrics]
    report = {"objectives": objectives, "epoch": told["best_epoch"], "best_epoch": told["best_epoch"], "finished": True}
    trials.reported(begun.number, report)
    trials.ended(begun.number, None)


def _train_alone(plan: Plan, number: int, values: Mapping[str, Any], root: Path) -> Told:
    folder = root / "search"
    folder.mkdir(parents=True, exist_ok=True)
    asked, told = folder / f"{number:03d}.json", folder / f"{number:03d}.told.json"
    asked.write_text(json.dumps({"number": number, "values": values, "root": str(root)}))
    run_alone([sys.executable, __file__, str(asked), str(told)], asked.with_suffix(".log"))
    shutil.rmtree(folder / f"{number:03d}")  # a new search begins anew
    return {"number": number, "values": dict(values), **json.loads(told.read_text())}


def main() -> None:
    """Train a trial: the first file says which, the second gets what it has on validation."""
    from tuning.trial import TrialJob, run_trial

    asked = json.loads(Path(sys.argv[1]).read_text())
    root = Path(asked["root"])
    plan = read_search(root)
    job = TrialJob(plan.base, plan.metric, plan.objectives.metrics, str(root / "search"))
    reports: list[dict[str, Any]] = []
    run_trial(job, asked["number"], asked["values"], reports.append)
    best = max(reports, key=lambda report: report[plan.metric])
    valid = {name: round(value, 6) for name, value in best.items() if name.endswith(tune_table.KEPT)}
    told = {"best_epoch": best["epoch"], "seconds": round(reports[-1]["seconds"], 1), "valid": valid}
    Path(sys.argv[2]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
