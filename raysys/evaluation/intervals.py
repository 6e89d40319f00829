"""Percentile bootstrap over users: every estimate is a ratio of two sums over users, drawn together.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 13 and 16. Legend: U users, R resamples,
M columns.
"""

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from raysys.evaluation.protocol import Estimate, EvaluationConfig

K = TypeVar("K", bound=Hashable)
_DRAWS_AT_ONCE = 1 << 22  # counts in memory: 16 MiB


@dataclass(frozen=True)
class PerUser:
    """A value of every user, and how much it weighs: the estimate is sum(values x weights) / sum(weights).

    Values that are NaN are left out, with their weight.
    """

    values_U: np.ndarray
    weights_U: np.ndarray | None = None
    """1 for everybody when None."""

    @property
    def sums(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Numerators [U] and denominators [U]; None for a denominator of 1 throughout."""
        known_U = ~np.isnan(self.values_U)
        if self.weights_U is None and known_U.all():
            return self.values_U, None
        weights_U = np.where(known_U, 1.0 if self.weights_U is None else self.weights_U, 0.0)
        return np.where(known_U, self.values_U, 0.0) * weights_U, weights_U

    @property
    def mean(self) -> float:
        """The estimate itself; NaN where nothing weighs."""
        values_U, weights_U = self.sums
        return float(values_U.mean()) if weights_U is None else _ratio(values_U.sum(), weights_U.sum())

    @property
    def count(self) -> int:
        """Users whose value is known."""
        return int((~np.isnan(self.values_U)).sum())


def draw_users(num_users: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield how often each user is drawn [r, U] f32, in blocks of r resamples; the same for the same arguments."""
    generator = np.random.default_rng(seed)
    step = max(1, min(resamples, _DRAWS_AT_ONCE // max(num_users, 1)))
    for start in range(0, resamples, step):
        counts_RU = np.empty((min(step, resamples - start), num_users), np.float32)
        for row in counts_RU:  # one row fits a cache: faster than all at once
            row[:] = np.bincount(generator.integers(num_users, size=num_users), minlength=num_users)
        yield counts_RU


def bootstrap(columns: Mapping[K, PerUser], config: EvaluationConfig, seed: int = 0) -> dict[K, np.ndarray]:
    """Return bootstrap estimates [R] of every column, by matrix products; the same users are drawn for all of them.

    All columns are of the same users. An estimate is NaN where nothing that was drawn weighs. Sums are f32.
    """
    if not columns:
        return {}
    sums = [column.sums for column in columns.values()]
    values_MU = np.stack([values for values, _ in sums]).astype(np.float32)
    keys = [_digest(weights) for _, weights in sums]
    weights = {
        key: weights.astype(np.float32) for key, (_, weights) in zip(keys, sums, strict=True) if weights is not None
    }
    rows = {key: len(columns) + at for at, key in enumerate(weights)}  # columns of one slice share their denominators
    stacked = np.concatenate([values_MU, *(row[None] for row in weights.values())]).T
    num_users = values_MU.shape[1]
    totals_RM = np.concatenate([counts @ stacked for counts in draw_users(num_users, config.resamples, seed)])
    found = {}
    for at, (name, key) in enumerate(zip(columns, keys, strict=True)):
        drawn_R = num_users if key is None else totals_RM[:, rows[key]]
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = np.divide(totals_RM[:, at], drawn_R, dtype=np.float64)
    return found


def estimates(columns: Mapping[K, PerUser], config: EvaluationConfig) -> dict[K, Estimate]:
    """Return the estimate of every column with its interval; columns that nobody has a value in are left out."""
    known = {name: column for name, column in columns.items() if column.count}
    samples = bootstrap(known, config)
    return {
        name: Estimate(column.mean, *interval(samples[name], config.confidence), column.count)
        for name, column in known.items()
    }


def interval(samples_R: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of bootstrap samples; those that are not finite (undefined there) are left out."""
    tail = (1 - confidence) / 2
    known = samples_R[np.isfinite(samples_R)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)


def _digest(weights_U: np.ndarray | None) -> bytes | None:
    return None if weights_U is None else hashlib.blake2b(weights_U.tobytes(), digest_size=16).digest()


def _ratio(over: float, under: float) -> float:
    return float(over / under) if under else float("nan")
