"""The kinds of distributions that a space is made of, each of one value but the simplex.

To add a kind: write a class like those below and add its line to DISTRIBUTIONS.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from raysys.component import FrozenConfig
from tuning.distribution import Distribution, OneValue
from tuning.simplex import Simplex

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class FloatRange(OneValue):
    """Real numbers between two bounds."""

    class Config(FrozenConfig):
        """Both bounds can be drawn; `log` spreads the draws evenly over orders of magnitude."""

        kind: Literal["float"] = "float"
        low: FiniteFloat
        high: FiniteFloat
        log: bool = False
        steps: int | None = Field(None, ge=2)
        """How many values a grid takes, both bounds among them."""

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

    def count(self) -> int | None:
        """Return the steps of the config."""
        steps: int | None = self.config.steps
        return steps

    def steps(self) -> list[float]:
        """Return values at equal distances, or ratios with `log`."""
        low, high, last = self.config.low, self.config.high, self.config.steps - 1
        between = [at / last for at in range(1, last)]
        if self.config.log:
            return [low, *(low * (high / low) ** share for share in between), high]
        return [low, *(low + (high - low) * share for share in between), high]


class IntRange(OneValue):
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

    def count(self) -> int:
        """Return how many steps there are."""
        return len(self._range())

    def steps(self) -> list[int]:
        """Return every step."""
        return list(self._range())

    def _range(self) -> range:
        return range(self.config.low, self.config.high + 1, self.config.step)


class Choice(OneValue):
    """One of some values without order; of a `kind`, one of some kinds."""

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

    def count(self) -> int:
        """Return how many there are."""
        return len(self.config.values)

    def steps(self) -> list[Any]:
        """Return every value."""
        return list(self.config.values)


DISTRIBUTIONS: dict[str, type[Distribution]] = {
    "float": FloatRange,
    "int": IntRange,
    "choice": Choice,
    "simplex": Simplex,
}
"""Kind -> class."""


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
