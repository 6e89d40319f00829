"""The contract of a distribution: what a search may give to one path of a train config, and how Optuna draws it."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from raysys.component import FrozenConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]
"""Optuna's parameters by name."""
MISSING = object()
"""What stands for a value that a config does not hold."""


class Distribution(ABC):
    """The values that a search may give to one path of the config."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig) -> None:
        self.config: Any = config

    def around(self, found: Any) -> "Distribution":
        """Return the same for a base that holds `found` (or MISSING) at the path."""
        return self

    @abstractmethod
    def domains(self, path: str) -> dict[str, "BaseDistribution"]:
        """Return the parameters that Optuna draws, by name."""

    @abstractmethod
    def values(self, path: str, params: Params) -> dict[str, Any]:
        """Return what drawn parameters mean: values by path of the config."""

    @abstractmethod
    def params(self, path: str, found: Any) -> Params:
        """Return the parameters that mean the value `found`; none if it is MISSING or cannot be drawn."""

    @abstractmethod
    def tries(self, path: str) -> list[dict[str, Any]]:
        """Return values by path that the config must take: where these pass, all pass."""

    @abstractmethod
    def count(self) -> int | None:
        """Return how many values a grid takes of it; None if that is not said."""

    @abstractmethod
    def grid(self, path: str) -> list[Params]:
        """Return the parameters of each value of a grid, where `count` says how many these are."""


class OneValue(Distribution):
    """What gives its path one value, by one parameter of the same name."""

    @abstractmethod
    def domain(self) -> "BaseDistribution":
        """Return the same as Optuna knows it."""

    @abstractmethod
    def probes(self) -> tuple[Any, ...]:
        """Return values that the config must take."""

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Tell whether a value can be drawn."""

    @abstractmethod
    def steps(self) -> list[Any]:
        """Return the values of a grid."""

    def domains(self, path: str) -> dict[str, "BaseDistribution"]:
        """Return the one parameter."""
        return {path: self.domain()}

    def values(self, path: str, params: Params) -> dict[str, Any]:
        """Return the parameter as it is."""
        return {path: params[path]}

    def params(self, path: str, found: Any) -> Params:
        """Return the value itself."""
        return {path: found} if found is not MISSING and self.contains(found) else {}

    def tries(self, path: str) -> list[dict[str, Any]]:
        """Return the probes at their path."""
        return [{path: value} for value in self.probes()]

    def grid(self, path: str) -> list[Params]:
        """Return the values themselves."""
        return [{path: value} for value in self.steps()]
