"""The space of a search: dotted paths of a train config, each with a distribution. Knows optuna, not ray.

To add a kind of distribution: write a class like those below and add its line to DISTRIBUTIONS.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from raysys.component import FrozenConfig
from raysys.configfile import Node

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MISSING = object()
"""What `value_at` returns where a config holds nothing."""


class Distribution(ABC):
    """The values that a search may give to one path of the config."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig) -> None:
        self.config: Any = config

    @abstractmethod
    def domain(self) -> "BaseDistribution":
        """Return the same as Optuna knows it."""

    @abstractmethod
    def probes(self) -> tuple[Any, ...]:
        """Return values that the config must take: where these pass, all pass."""

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Tell whether a value can be drawn."""


class FloatRange(Distribution):
    """Real numbers between two bounds."""

    class Config(FrozenConfig):
        """Both bounds can be drawn; `log` spreads the draws evenly over orders of magnitude."""

        kind: Literal["float"] = "float"
        low: FiniteFloat
        high: FiniteFloat
        log: bool = False

        @model_validator(mode="after")
        def _makes_sense(self) -> "FloatRange.Config":
            _check_bounds(self.low, self.high, self.log)
            return self

    def domain(self) -> "BaseDistribution":
        """Return Optuna's float distribution."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.config.low, self.config.high, log=self.config.log)

    def probes(self) -> tuple[float, ...]:
        """Return the bounds and a crooked number between them, which a whole-number field refuses."""
        low, high = self.config.low, self.config.high
        return low, low + (high - low) / math.pi, high

    def contains(self, value: Any) -> bool:
        """Tell whether the value is a number within the bounds."""
        return _is_number(value) and self.config.low <= value <= self.config.high


class IntRange(Distribution):
    """Whole numbers between two bounds."""

    class Config(FrozenConfig):
        """Both bounds can be drawn, and every `step`-th number between them."""

        kind: Literal["int"] = "int"
        low: int
        high: int
        log: bool = False
        step: int = Field(1, ge=1)

        @model_validator(mode="after")
        def _makes_sense(self) -> "IntRange.Config":
            _check_bounds(self.low, self.high, self.log)
            if self.log and self.step != 1:
                raise ValueError(f"log and step: {self.step} exclude each other; leave one out")
            if rest := (self.high - self.low) % self.step:
                raise ValueError(
                    f"high: {self.high} is never reached from {self.low} in steps of {self.step}; "
                    f"write high: {self.high - rest}"
                )
            return self

    def domain(self) -> "BaseDistribution":
        """Return Optuna's whole-number distribution."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.config.low, self.config.high, log=self.config.log, step=self.config.step)

    def probes(self) -> tuple[int, ...]:
        """Return the bounds."""
        return self.config.low, self.config.high

    def contains(self, value: Any) -> bool:
        """Tell whether the value is one of the steps."""
        config = self.config
        return _is_number(value) and config.low <= value <= config.high and (value - config.low) % config.step == 0


class Choice(Distribution):
    """One of some values without order."""

    class Config(FrozenConfig):
        """The values: numbers, texts, true, false or null."""

        kind: Literal["choice"] = "choice"
        values: tuple[bool | int | float | str | None, ...] = Field(min_length=2)

        @model_validator(mode="after")
        def _makes_sense(self) -> "Choice.Config":
            for place, value in enumerate(self.values):
                if any(_same(value, other) for other in self.values[:place]):
                    raise ValueError(f"values: {value!r} is written twice")
            return self

    def domain(self) -> "BaseDistribution":
        """Return Optuna's categorical distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.config.values)

    def probes(self) -> tuple[Any, ...]:
        """Return every value."""
        return tuple(self.config.values)

    def contains(self, value: Any) -> bool:
        """Tell whether the value is one of them."""
        return any(_same(value, known) for known in self.config.values)


DISTRIBUTIONS: dict[str, type[Distribution]] = {"float": FloatRange, "int": IntRange, "choice": Choice}


def distributions(space: Mapping[str, Any]) -> dict[str, Distribution]:
    """Return the distribution of every path, from their configs."""
    return {path: DISTRIBUTIONS[config.kind](config) for path, config in space.items()}


def default_values(space: Mapping[str, Distribution], base: Node) -> dict[str, Any]:
    """Return the base's own values at the paths of the space, where it has one and that one can be drawn."""
    found = {path: value_at(base, path) for path in space}
    return {path: value for path, value in found.items() if value is not MISSING and space[path].contains(value)}


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


def _check_bounds(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low: {low} must lie below high: {high}")
    if log and low <= 0:
        raise ValueError(f"log: true wants low above 0, not {low}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    """Compare as Optuna does, except that true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
