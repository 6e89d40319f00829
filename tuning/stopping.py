"""When a whole search ends before its last trial. Knows numbers and a clock, no trials and no ray."""

import time
from collections.abc import Callable, Sequence

from pydantic import Field

from raysys.component import FrozenConfig


class StopConfig(FrozenConfig):
    """What ends a search before num_trials: whichever comes first, and nothing where all are null."""

    seconds: float | None = Field(None, gt=0)
    """Time after which no trial begins; those that run go on to their end."""
    plateau: int | None = Field(None, ge=1)
    """Ended trials in a row without an improvement: one that is better than each before it, in some objective."""
    tolerance: float = Field(0.0, ge=0)
    """By how much it must be better to count; smaller steps add up."""


class Stopper:
    """Told of every trial that ended; says whether, and why, the search should."""

    def __init__(
        self,
        config: StopConfig,
        lower_is_better: Sequence[bool],
        clock: Callable[[], float] = time.monotonic,
        spent: float = 0.0,
    ) -> None:
        """Take the direction of each objective, and the seconds that an interrupted search has spent already."""
        self.config = config
        self._signs = [-1.0 if lower else 1.0 for lower in lower_is_better]
        self._clock = clock
        self._begun = clock() - spent
        # The improvements that no later one covers. What is within the tolerance of them is left out, or small steps
        # would never add up.
        self._front: list[tuple[float, ...]] = []
        self._stale = 0

    @property
    def spent(self) -> float:
        """Seconds of the search so far."""
        return self._clock() - self._begun

    def ended(self, values: Sequence[float] | None) -> None:
        """Take in the objectives of a trial that ended; None where it failed."""
        self._stale += 1
        if values is None:
            return
        point = tuple(sign * value for sign, value in zip(self._signs, values, strict=True))
        if all(self._improves(point, best) for best in self._front):
            self._stale = 0
            self._front = [best for best in self._front if not _covers(point, best)] + [point]

    def reason(self) -> str | None:
        """Return why the search should end now; None while it should go on."""
        config = self.config
        if config.seconds is not None and self.spent >= config.seconds:
            return f"{self.spent:.0f} seconds have passed (stop.seconds: {config.seconds:g})"
        if config.plateau is not None and self._stale >= config.plateau:
            return f"no improvement in {self._stale} trials (stop.plateau: {config.plateau})"
        return None

    def _improves(self, point: Sequence[float], best: Sequence[float]) -> bool:
        return any(own > other + self.config.tolerance for own, other in zip(point, best, strict=True))


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))
