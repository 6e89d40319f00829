"""The space of a search: which paths of a train config vary together, and what a trial of Optuna draws for them."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raysys.component import FrozenConfig
from raysys.configfile import Node, set_path
from raysys.errors import UserError
from tuning.distribution import MISSING, Distribution, Params
from tuning.distributions import DISTRIBUTIONS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

_KIND = re.compile(r"\[\w+\]")
_MOST_POINTS = 100_000


class Space:
    """What varies around a base.

    A path inside a part of some kind (`model.sharing[ple].num_own`) is drawn only in trials where the part is of that
    kind: as the trial draws it at `model.sharing.kind`, or as the base has it.
    """

    def __init__(self, configs: Mapping[str, FrozenConfig], base: Node) -> None:
        """Take the distributions of all paths, and the resolved train config that they vary."""
        self.base = base
        made = {path: DISTRIBUTIONS[config.kind](config) for path, config in configs.items()}  # type: ignore[attr-defined]
        # Kinds come first, outer ones before those inside: what they hold depends on them.
        ordered = sorted(made, key=lambda path: path.count(".") if is_kind(path) else math.inf)
        self.parts: dict[str, Distribution] = {path: made[path].around(value_at(base, path)) for path in ordered}

    def suggest(self, trial: "BaseTrial") -> dict[str, Any]:
        """Draw a trial's values, by path of the config; of parts of another kind there are none."""
        values: dict[str, Any] = {}
        for path, part in self.parts.items():
            if self._applies(path, values):
                params = {name: _draw(trial, name, domain) for name, domain in part.domains(path).items()}
                values |= part.values(path, params)
        return values

    def values(self, params: Params) -> dict[str, Any]:
        """Return the values by path that a trial with Optuna's parameters has, as `suggest` returned them."""
        from optuna.trial import FixedTrial

        return self.suggest(FixedTrial(params))

    def default_params(self) -> Params:
        """Return Optuna's parameters under which the base is drawn; without those whose value in the base cannot be."""
        found: Params = {}
        for path, part in self.parts.items():
            if self._applies(path, {}):
                found |= part.params(path, value_at(self.base, path))
        return found

    def default_values(self) -> dict[str, Any]:
        """Return the base's own values by path, where they can be drawn."""
        found: dict[str, Any] = {}
        params = self.default_params()
        for path, part in self.parts.items():
            if part.domains(path).keys() <= params.keys():
                found |= part.values(path, params)
        return found

    def domains(self) -> dict[str, "BaseDistribution"]:
        """Return all parameters that some trial may draw, as Optuna knows them."""
        return {name: domain for path, part in self.parts.items() for name, domain in part.domains(path).items()}

    @property
    def conditional(self) -> bool:
        """Whether some parameters are drawn in some trials only."""
        return any(_KIND.search(path) and len(self.contexts(path)[0]) > 0 for path in self.parts)

    def contexts(self, path: str) -> list[dict[str, Any]]:
        """Return the kinds under which a path must make sense: values by path, to be set before it is."""
        found: list[dict[str, Any]] = [{}]
        steps = path.split(".")
        for place, step in enumerate(steps[:-1]):
            above = _KIND.sub("", ".".join(steps[: place + 1])) + ".kind"
            for other, part in self.parts.items():
                if _KIND.sub("", other) == above and (kinds := _kinds(part)):
                    chosen = step[step.index("[") + 1 : -1] if step.endswith("]") else None
                    fitting = kinds if chosen is None else [kind for kind in kinds if kind == chosen]
                    found = [{**context, other: kind} for context in found for kind in fitting] or found
        return found

    def grid(self) -> list[Params]:
        """Return Optuna's parameters of every point of the grid, in the order of the space.

        Raises:
            UserError: a range of real numbers does not say how many steps it has, or the points are too many.
        """
        for path, part in self.parts.items():
            if part.count() is None:
                raise UserError(f"space.{path}: a grid wants to know its steps; write for example steps: 4")
        most = math.prod(part.count() or 1 for part in self.parts.values())
        if most > _MOST_POINTS:
            raise UserError(f"space: a grid of up to {most:,} points; take fewer steps, or another searcher")
        points: list[tuple[Params, dict[str, Any]]] = [({}, {})]
        for path, part in self.parts.items():
            points = [longer for point in points for longer in self._extended(point, path, part)]
        return [params for params, _ in points]

    def _extended(
        self, point: tuple[Params, dict[str, Any]], path: str, part: Distribution
    ) -> list[tuple[Params, dict[str, Any]]]:
        params, values = point
        if not self._applies(path, values):
            return [point]
        return [({**params, **more}, {**values, **part.values(path, more)}) for more in part.grid(path)]

    def _applies(self, path: str, values: Mapping[str, Any]) -> bool:
        """Tell whether the parts that a path leads through are of the kinds it names, given what was drawn before."""
        if not (named := list(_KIND.finditer(path))):
            return True
        node = self.base
        for other in filter(is_kind, values):
            node = set_path(node, other, values[other])
        return value_at(node, path[: named[-1].end()]) is not MISSING


def is_kind(path: str) -> bool:
    """Tell whether a path chooses the kind of a part."""
    return path.rpartition(".")[2] == "kind"


def value_at(node: Any, path: str) -> Any:
    """Return what a config holds at a dotted path (as for set_path), or MISSING."""
    for step in path.split("."):
        key, _, kind = step.removesuffix("]").partition("[")
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, Mapping) and key in node:
            node = node[key]
        else:
            return MISSING
        if kind and (not isinstance(node, Mapping) or node.get("kind") != kind):
            return MISSING
    return node


def _kinds(part: Distribution) -> list[str]:
    return [value for value in getattr(part.config, "values", ()) if isinstance(value, str)]


def _draw(trial: "BaseTrial", name: str, domain: "BaseDistribution") -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, FloatDistribution):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    if isinstance(domain, IntDistribution):
        return trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
    if isinstance(domain, CategoricalDistribution):
        return trial.suggest_categorical(name, domain.choices)
    raise AssertionError(f"no draw of {domain}")
