"""Weights of which only the ratios vary, as one part of a search's space."""

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from raysys.component import FrozenConfig
from tuning.distribution import Distribution, Params

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_LEAST = 1e-6
"""Keeps the parameters of a simplex off 0 and 1, whose logarithms have no ratio."""
_DIGITS = 5


class Simplex(Distribution):
    """Shares of a whole, such as the weights of tasks: only their ratios vary.

    Every key has a parameter u in (0, 1), named PATH.KEY, and gets the share -log(u) / sum of -log(u): with even u
    these are spread evenly over all shares (Dirichlet), and no key is unlike another, as the rest of a stick would be.
    """

    class Config(FrozenConfig):
        """A mapping of names to weights; what it holds beside these keys stays as it is."""

        kind: Literal["simplex"] = "simplex"
        keys: tuple[str, ...] = Field(min_length=2)
        """Names in the mapping."""
        low: float = Field(0.0, ge=0)
        """Least share of each; 1 is the whole."""
        total: float | None = Field(None, gt=0)
        """What the weights sum to; null keeps the sum in the base, where a missing weight counts 1."""
        steps: int | None = Field(None, ge=1)
        """Into how many parts a grid divides the whole."""

        @model_validator(mode="after")
        def _makes_sense(self) -> "Simplex.Config":
            for place, key in enumerate(self.keys):
                if key in self.keys[:place]:
                    raise ValueError(f"keys: {key!r} is written twice")
            if self.low * len(self.keys) >= 1:
                raise ValueError(f"low: {self.low} of each of {len(self.keys)} keys leaves nothing to vary")
            return self

    def around(self, found: Any) -> "Simplex":
        """Take over what the base's weights sum to."""
        if self.config.total is not None:
            return self
        total = sum(self._weights(found).values()) or float(len(self.config.keys))
        return Simplex(self.config.model_copy(update={"total": total}))

    def domains(self, path: str) -> dict[str, "BaseDistribution"]:
        """Return one parameter for every key."""
        from optuna.distributions import FloatDistribution

        return {f"{path}.{key}": FloatDistribution(_LEAST, 1 - _LEAST) for key in self.config.keys}

    def values(self, path: str, params: Params) -> dict[str, Any]:
        """Return the weights, rounded where it does not matter, so that configs stay readable."""
        found = {name: -math.log(params[name]) for name in (f"{path}.{key}" for key in self.config.keys)}
        whole = sum(found.values())
        return self._scaled({name: value / whole for name, value in found.items()})

    def params(self, path: str, found: Any) -> Params:
        """Return the parameters whose shares are in the ratios of the weights."""
        weights = self._weights(found)
        low, whole = self.config.low, sum(weights.values())
        free = 1 - low * len(weights)
        shares = {f"{path}.{key}": (weight / whole - low) / free if whole else -1.0 for key, weight in weights.items()}
        if min(shares.values()) < -_LEAST:
            return {}
        return self._drawn(shares)

    def tries(self, path: str) -> list[dict[str, Any]]:
        """Return the corners: one key has all that is free."""
        names = [f"{path}.{key}" for key in self.config.keys]
        return [self._scaled({name: float(name == most) for name in names}) for most in names]

    def count(self) -> int | None:
        """Return in how many ways the parts can be shared out."""
        steps, keys = self.config.steps, len(self.config.keys)
        return None if steps is None else math.comb(steps + keys - 1, keys - 1)

    def grid(self, path: str) -> list[Params]:
        """Return every way to share out the parts."""
        names, steps = [f"{path}.{key}" for key in self.config.keys], self.config.steps
        walls = itertools.combinations(range(steps + len(names) - 1), len(names) - 1)
        found = []
        for places in walls:
            ends = (-1, *places, steps + len(names) - 1)
            parts = [after - before - 1 for before, after in itertools.pairwise(ends)]
            found.append(self._drawn({name: part / steps for name, part in zip(names, parts, strict=True)}))
        return found

    def _weights(self, found: Any) -> dict[str, float]:
        known = found if isinstance(found, Mapping) else {}
        return {key: float(known.get(key, 1.0)) for key in self.config.keys}

    def _drawn(self, shares: dict[str, float]) -> Params:
        scale = min(float(len(shares)), -math.log(_LEAST) / max(shares.values()))
        return {name: min(max(math.exp(-scale * share), _LEAST), 1 - _LEAST) for name, share in shares.items()}

    def _scaled(self, shares: dict[str, float]) -> dict[str, float]:
        low, total = self.config.low, self.config.total or 1.0
        digits = _DIGITS - math.floor(math.log10(total))
        free = 1 - low * len(shares)
        return {name: round(total * (low + free * share), digits) for name, share in shares.items()}
