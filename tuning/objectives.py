"""What a search is judged by: one metric or several, and the rule that picks the winner among those none other beats.

To add a rule: write a class like those below and add its line to PICKS.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from raysys.component import FrozenConfig
from raysys.errors import UserError, nearest
from raysys.evaluation.protocol import lower_is_better

LATENCY = "latency_ms"
COSTS = ("seconds", "parameters", LATENCY)
"""Objectives that are no validation metrics: seconds of training of a trial, parameters of its model, and milliseconds
that it takes to answer a user."""
Points = Mapping[int, Sequence[float]]
"""The objectives of each trial, by its number, in the order of the config."""


class ObjectiveConfig(FrozenConfig):
    """One of several things that a search is judged by."""

    metric: str
    """A validation metric (click.auc), or a cost: seconds (of training), parameters (of the model), latency_ms (median
    milliseconds of one user's list of the whole catalogue, on one thread)."""


class Objectives:
    """The metrics of a search, in the order of its config."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = tuple(metrics)
        self.lower_is_better = tuple(name in COSTS or lower_is_better(name) for name in self.metrics)

    @property
    def primary(self) -> str:
        """The metric that decides which epoch of a trial is best: the first that is no cost."""
        return next(name for name in self.metrics if name not in COSTS)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Optuna's names of the directions."""
        return ["minimize" if lower else "maximize" for lower in self.lower_is_better]

    def pareto(self, points: Points) -> list[int]:
        """Return the trials that no other beats: as good in every objective and better in one; in their order."""
        signed = {number: self._signed(values) for number, values in points.items()}
        return [
            number
            for number, own in signed.items()
            if not any(_covers(other, own) and other != own for other in signed.values())
        ]

    def pick(self, rule: "Pick", points: Points) -> int | None:
        """Return the winner among trials; None if there are none. One objective needs no rule.

        Raises:
            UserError: no trial is within the limits of the rule.
        """
        if not points:
            return None
        if len(self.metrics) == 1:
            return max(points, key=lambda number: self._signed(points[number]))
        return rule.pick(self, points)

    def _signed(self, values: Sequence[float]) -> tuple[float, ...]:
        pairs = zip(values, self.lower_is_better, strict=True)
        return tuple(-value if lower else value for value, lower in pairs)


class Pick(ABC):
    """Picks one trial by several objectives."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig) -> None:
        self.config: Any = config

    @abstractmethod
    def check(self, metrics: Sequence[str]) -> None:
        """Take note of the names of the objectives.

        Raises:
            UserError: the rule names others.
        """

    @abstractmethod
    def pick(self, objectives: Objectives, points: Points) -> int:
        """Return the winner among one or more trials."""


class Weighted(Pick):
    """The largest weighted sum, each objective scaled to [0, 1] between the worst and the best unbeaten trial."""

    class Config(FrozenConfig):
        """Weights by objective; those that are not named weigh 1."""

        kind: Literal["weighted"] = "weighted"
        weights: dict[str, PositiveFloat] = {}

    def check(self, metrics: Sequence[str]) -> None:
        """Refuse weights of what is no objective."""
        _check_names("pick.weights", self.config.weights, metrics)

    def pick(self, objectives: Objectives, points: Points) -> int:
        """Weigh the unbeaten trials; of equals the first."""
        front = objectives.pareto(points)
        scores = dict.fromkeys(front, 0.0)
        for place, (name, lower) in enumerate(zip(objectives.metrics, objectives.lower_is_better, strict=True)):
            values = {number: points[number][place] for number in front}
            low, high = min(values.values()), max(values.values())
            for number, value in values.items():
                share = (value - low) / (high - low) if high > low else 0.0
                scores[number] += self.config.weights.get(name, 1.0) * (1 - share if lower else share)
        return max(front, key=lambda number: scores[number])


class Limit(FrozenConfig):
    """What an objective must be at least, or at most, or both."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> "Limit":
        if self.at_least is None and self.at_most is None:
            raise ValueError("write at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least: {self.at_least:g} lies above at_most: {self.at_most:g}")
        return self

    def excess(self, value: float) -> float:
        """Return by how much a value is outside; 0 within."""
        below = 0.0 if self.at_least is None else self.at_least - value
        above = 0.0 if self.at_most is None else value - self.at_most
        return max(below, above, 0.0)

    def __str__(self) -> str:
        limits = {"at least": self.at_least, "at most": self.at_most}
        return " and ".join(f"{name} {limit:g}" for name, limit in limits.items() if limit is not None)


class Best(Pick):
    """The best of one objective among the trials that are within limits in others."""

    class Config(FrozenConfig):
        """What is to be best, and what it may cost."""

        kind: Literal["best"] = "best"
        of: str
        """An objective."""
        subject_to: dict[str, Limit] = Field(min_length=1)
        """By objective: {at_least: VALUE} or {at_most: VALUE}."""

    def check(self, metrics: Sequence[str]) -> None:
        """Refuse what is no objective."""
        _check_names("pick.of", [self.config.of], metrics)
        _check_names("pick.subject_to", self.config.subject_to, metrics)

    def pick(self, objectives: Objectives, points: Points) -> int:
        """Return the best within the limits; of equals one that none other beats."""
        limits, names = self.config.subject_to, objectives.metrics
        outside = {
            number: [limit.excess(values[names.index(name)]) for name, limit in limits.items()]
            for number, values in points.items()
        }
        fitting = [number for number, excess in outside.items() if not any(excess)]
        if not fitting:
            raise UserError(self._nobody(objectives, points, outside))
        front, place = objectives.pareto({number: points[number] for number in fitting}), names.index(self.config.of)
        sign = -1.0 if objectives.lower_is_better[place] else 1.0
        return max(front, key=lambda number: sign * points[number][place])

    def _nobody(self, objectives: Objectives, points: Points, outside: Mapping[int, Sequence[float]]) -> str:
        """Return a message that names the trial which misses the limits least, in shares of the trials' range."""
        limits = self.config.subject_to
        widest = [max(column) or 1.0 for column in zip(*outside.values(), strict=True)]
        closest = min(outside, key=lambda n: sum(a / b for a, b in zip(outside[n], widest, strict=True)))
        wanted = " and ".join(f"{name} {limit}" for name, limit in limits.items())
        has = ", ".join(f"{name} {points[closest][objectives.metrics.index(name)]:.6g}" for name in limits)
        return f"pick.subject_to: no trial has {wanted}; the closest is trial {closest} with {has}"


PICKS: dict[str, type[Pick]] = {"weighted": Weighted, "best": Best}
"""Kind -> class."""


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))


def _check_names(where: str, given: Iterable[str], metrics: Sequence[str]) -> None:
    for name in given:
        if name not in metrics:
            raise UserError(f"{where}: {name!r} is not an objective{nearest(name, metrics)} ({', '.join(metrics)})")
