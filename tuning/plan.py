"""Everything a search needs, read and checked before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raysys.config import RunConfig
from raysys.configfile import Node, apply_settings, build, load_plugins, read_yaml, set_path, store_root
from raysys.errors import UserError, nearest
from raysys.evaluation.protocol import lower_is_better
from tuning.config import TuneConfig
from tuning.schedulers import SCHEDULERS
from tuning.space import Distribution, default_values, distributions
from tuning.trial import candidate


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
    def space(self) -> dict[str, Distribution]:
        """The distribution of every path."""
        return distributions(self.config.space)

    @cached_property
    def first_values(self) -> dict[str, Any]:
        """The values of the first trial, the base's own; paths that are not here are left to the sampler."""
        return default_values(self.space, self.base)

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return lower_is_better(self.config.metric)

    def candidate(self, values: Mapping[str, Any]) -> RunConfig:
        """Return the train config of a trial."""
        return candidate(self.base, values, self.config.metric, self.where)


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

    config = plan.config
    one = describe_training(RunConfig.model_validate(plan.base))
    return {
        "trials": config.num_trials,
        "metric": f"{config.metric} ({'lower' if plan.lower_is_better else 'higher'} is better)",
        "space": list(plan.space),
        "first_trial": plan.first_values,
        "most_epochs": config.num_trials * plan.most_epochs,
        "cores": config.max_concurrent * config.cpus_per_trial,
        **{key: one[key] for key in ("dataset", "start_from", "tasks", "users", "items", "parameters")},
        "steps_per_epoch": one["steps_per_epoch"],
        "expected_disk_bytes": one["expected_disk_bytes"] * config.max_concurrent,
        "expected_memory_bytes": one["expected_memory_bytes_per_worker"] * config.max_concurrent,
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


def _check(config: TuneConfig, sparse: Node, where: str) -> Plan:
    from raysys.training.start import resolve

    base = build(RunConfig, sparse, f"{where}: base")
    _check_metric(config.metric, base, where)
    resolved = resolve(base).model_dump(mode="json")
    candidate(resolved, {}, config.metric, where)
    probed = [_probe(resolved, path, part, where) for path, part in distributions(config.space).items()]
    most_epochs = max([base.training.epochs, *probed])
    SCHEDULERS[config.scheduler.kind](config.scheduler).options(most_epochs)  # type: ignore[attr-defined]
    return Plan(config.model_copy(update={"base": resolved}), resolved, where, most_epochs)


def _probe(base: Node, path: str, distribution: Distribution, where: str) -> int:
    """Try a distribution's values in the base, and return the most epochs that any of them trains."""
    place = f"{where}: space.{path}"
    if "/" in path:
        raise UserError(f"{place}: write the path with dots, as for --set")
    probed = [(value, set_path(base, path, value)) for value in distribution.probes()]
    if all(node == base for _, node in probed):
        raise UserError(f"{place}: changes nothing; the base has no part of that kind")
    return max(build(RunConfig, node, f"{place} = {value}").training.epochs for value, node in probed)


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
