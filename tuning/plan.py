"""Everything a search needs, read and checked before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raysys.component import kind_of
from raysys.config import RunConfig
from raysys.configfile import Node, apply_settings, build, load_plugins, read_yaml, set_path, store_root
from raysys.errors import UserError, nearest
from tuning.config import TuneConfig
from tuning.constraints import Constraint, check_constraints
from tuning.distribution import Distribution
from tuning.objectives import COSTS, PICKS, Objectives, Pick
from tuning.schedulers import SCHEDULERS
from tuning.searchers import SEARCHERS
from tuning.space import Space
from tuning.trial import SHARE, candidate


@dataclass(frozen=True)
class Plan:
    """A checked search."""

    config: TuneConfig
    base: Node
    """The resolved train config that trials start from."""
    where: str
    """The file it came from, for messages."""
    most_epochs: int
    """Epochs of the longest trial."""

    @cached_property
    def space_of(self) -> Space:
        """What varies."""
        return Space(self.config.space, self.base)

    @property
    def space(self) -> dict[str, Distribution]:
        """The distribution of every path."""
        return self.space_of.parts

    @cached_property
    def first_values(self) -> dict[str, Any]:
        """The values of the first trial, the base's own; paths that are not here are left to the sampler."""
        return self.space_of.default_values()

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """What the config of every trial must satisfy."""
        return tuple(Constraint(text) for text in self.config.constraints)

    @property
    def objectives(self) -> Objectives:
        """What trials are judged by."""
        return self.config.judged_by

    @property
    def pick(self) -> Pick:
        """What picks the winner among several objectives."""
        return PICKS[kind_of(self.config.pick)](self.config.pick)

    @property
    def metric(self) -> str:
        """The validation metric that decides which epoch of a trial is best."""
        return self.objectives.primary

    @property
    def lower_is_better(self) -> bool:
        """Whether that metric is an error."""
        return self.objectives.lower_is_better[self.objectives.metrics.index(self.metric)]

    def candidate(self, values: Mapping[str, Any]) -> RunConfig:
        """Return the train config of a trial."""
        return candidate(self.base, values, self.metric, self.where)

    def allows(self, config: RunConfig) -> bool:
        """Tell whether the config of a trial satisfies all constraints."""
        node = config.model_dump(mode="json")
        return all(constraint.holds(node) for constraint in self.constraints)


def read_plan(config: str | Path | Mapping[str, Any], settings: Sequence[str] = (), **given: Any) -> Plan:
    """Read a search from a YAML file or a mapping, edit it, and check all of it.

    `settings` are `a.b=c` strings as for --set (`base.x` reaches into the base); `given` are keys of the base that win
    over its file.

    Raises:
        UserError: a file is missing, a key or a path of the space does not exist, a value of the space is refused, or
            dataset or parent do not exist.
    """
    where = "config" if isinstance(config, Mapping) else str(config)
    node = dict(config) if isinstance(config, Mapping) else read_yaml(config)
    node = apply_settings(_with_base(node, where, given), list(settings))
    load_plugins(node["base"].get("plugins") or [], f"{where}: base")
    return _check(build(TuneConfig, node, where), node["base"], where)


def describe(plan: Plan) -> dict[str, Any]:
    """Tell what a search would do, without doing it: for --dry-run."""
    from raysys.training.fit import describe as describe_training

    config, processes = plan.config, plan.config.max_concurrent * plan.base["training"]["num_workers"]
    one = describe_training(RunConfig.model_validate(plan.base))
    return {
        "trials": config.num_trials,
        "metric": "; ".join(_directed(plan.objectives)),
        "space": list(plan.space),
        "first_trial": plan.first_values,
        "most_epochs": config.num_trials * plan.most_epochs,
        "cores": processes * config.cpus_per_trial,
        **{key: one[key] for key in ("dataset", "start_from", "tasks", "users", "items", "parameters")},
        "steps_per_epoch": one["steps_per_epoch"],
        "expected_disk_bytes": one["expected_disk_bytes"] * config.max_concurrent,
        "expected_memory_bytes": one["expected_memory_bytes_per_worker"] * processes,
    }


def _with_base(node: Node, where: str, given: Mapping[str, Any]) -> Node:
    """Put the base's keys where its path stands, so that settings reach into it."""
    base = node.get("base")
    if isinstance(base, str):
        base = read_yaml(Path(where).parent / base)
    if not isinstance(base, Mapping):
        raise UserError(f"{where}: base: a train config is expected (a YAML file, relative to this one), not {base!r}")
    chosen = {key: value for key, value in given.items() if value is not None}
    return {**node, "base": {"root": store_root(), **base, **chosen}}


def _directed(objectives: Objectives) -> list[str]:
    pairs = zip(objectives.metrics, objectives.lower_is_better, strict=True)
    return [f"{name} ({'lower' if lower else 'higher'} is better)" for name, lower in pairs]


def _check(config: TuneConfig, sparse: Node, where: str) -> Plan:
    from raysys.training.start import resolve

    base = build(RunConfig, sparse, f"{where}: base")
    objectives = config.judged_by
    _check_workers(config, base, where)
    for metric in objectives.metrics:
        if metric not in COSTS:
            _check_metric(metric, base, where)
    resolved = resolve(base).model_dump(mode="json")
    candidate(resolved, {SHARE: config.dataset_fraction}, objectives.primary, where)
    space = Space(config.space, resolved)
    most_epochs = max([base.training.epochs, *(_probe(space, path, where) for path in config.space)])
    plan = Plan(config.model_copy(update={"base": resolved}), resolved, where, most_epochs)
    try:
        _check_parts(plan)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return plan


def _check_workers(config: TuneConfig, base: RunConfig, where: str) -> None:
    if "training.num_workers" in config.space:
        raise UserError(
            f"{where}: space.training.num_workers: all trials of a search have as many workers; write it into the base"
        )
    workers = base.training.num_workers
    if workers > 1 and base.training.gpu and config.gpus_per_trial < 1:
        raise UserError(
            f"{where}: gpus_per_trial: {config.gpus_per_trial:g}, but each of {workers} workers (base.training."
            "num_workers) needs a GPU of its own; leave it out"
        )


def _check_parts(plan: Plan) -> None:
    """Check what each part of a search says of the others."""
    config, metrics = plan.config, plan.objectives.metrics
    scheduler = SCHEDULERS[kind_of(config.scheduler)](config.scheduler)
    if scheduler.needs_one_objective and len(metrics) > 1:
        raise UserError(
            f"scheduler: {kind_of(config.scheduler)} compares trials by one metric, not {len(metrics)}; leave it out"
        )
    scheduler.options(plan.most_epochs)
    SEARCHERS[kind_of(config.searcher)](config.searcher).check(plan.space_of, len(metrics))
    PICKS[kind_of(config.pick)](config.pick).check(metrics)
    if plan.constraints:
        check_constraints(plan.constraints, plan.base, [_resolved(plan, values) for values in _variants(plan)])


def _variants(plan: Plan) -> list[dict[str, Any]]:
    """Return what each path may hold, with the kinds around it: values by path."""
    return [
        {**context, **tried}
        for path, part in plan.space.items()
        for context in plan.space_of.contexts(path)
        for tried in part.tries(path)
    ]


def _resolved(plan: Plan, values: Mapping[str, Any]) -> Node:
    return plan.candidate(values).model_dump(mode="json")


def _probe(space: Space, path: str, where: str) -> int:
    """Try the values of a path under all kinds that the parts around it may have; return the most epochs it trains."""
    place = f"{where}: space.{path}"
    if "/" in path:
        raise UserError(f"{place}: write the path with dots, as for --set")
    most_epochs = []
    for kinds in space.contexts(path):
        around = space.base
        for other, kind in kinds.items():
            around = set_path(around, other, kind)
        probed = [(tried, _set_all(around, tried)) for tried in space.parts[path].tries(path)]
        if all(node == around for _, node in probed):
            raise UserError(f"{place}: changes nothing; the base has no part of that kind, nor does the space offer it")
        told = "".join(f" with {other} = {kind}" for other, kind in kinds.items())
        for tried, node in probed:
            most_epochs.append(build(RunConfig, node, f"{place}{_told(path, tried)}{told}").training.epochs)
    return max(most_epochs)


def _set_all(node: Node, values: Mapping[str, Any]) -> Node:
    for path, value in values.items():
        node = set_path(node, path, value)
    return node


def _told(path: str, tried: Mapping[str, Any]) -> str:
    return f" = {tried[path]}" if path in tried else ""


def _check_metric(metric: str, base: RunConfig, where: str) -> None:
    task, dot, _ = metric.partition(".")
    if not dot or task not in base.tasks:
        tasks = list(base.tasks)
        raise UserError(
            f"{where}: metric: {metric!r} is not a validation metric of the base{nearest(task, tasks)}; "
            f"write TASK.METRIC, for example next_item.ndcg@10 (tasks: {', '.join(tasks)})"
        )
    depth = metric.partition("@")[2]
    if depth and depth not in map(str, base.evaluation.k):
        depths = ", ".join(map(str, base.evaluation.k))
        raise UserError(f"{where}: metric: {metric!r}: evaluation.k of the base has no {depth} (it has: {depths})")
