"""How a model is judged: which users, which items, which metrics; and the carriers of the outcome."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from raysys.component import FrozenConfig

PROTOCOL = "full ranking over the whole catalogue; items the user already had are left out; no sampled negatives"


class EvaluationConfig(FrozenConfig):
    """Evaluation. Metrics are means over users; intervals are percentile bootstraps over users."""

    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((5, 10, 20), min_length=1)
    """Depths of the ranking metrics."""
    batch_size: int = Field(256, ge=1)
    """Users ranked at a time."""
    exclude_seen: bool = True
    """Leave out what the user already had; a held-out item that was had before then counts as a miss."""
    resamples: int = Field(1000, ge=10)
    """Bootstrap resamples behind each interval."""
    confidence: float = Field(0.95, gt=0, lt=1)


@dataclass(frozen=True)
class Estimate:
    """A metric with its bootstrap interval over users."""

    mean: float
    low: float
    high: float
    count: int
    """Users (or pairs) behind it."""


@dataclass(frozen=True)
class EvalReport:
    """What an evaluation found, beside the popularity baseline under the same protocol."""

    split: str
    protocol: str
    metrics: Mapping[str, Estimate]
    popularity: Mapping[str, Estimate]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for files and --json."""
        return asdict(self)

    @staticmethod
    def from_json(node: Mapping[str, Any]) -> "EvalReport":
        """Read what `to_json` wrote."""
        tables = {
            name: {metric: Estimate(**value) for metric, value in node[name].items()}
            for name in ("metrics", "popularity")
        }
        return EvalReport(node["split"], node["protocol"], **tables, notes=tuple(node["notes"]))


def lower_is_better(metric: str) -> bool:
    """Tell whether a metric is an error."""
    return metric.rpartition(".")[2] in ("rmse", "loss") or metric.startswith("loss")


def bootstrap(values_MU: np.ndarray, config: EvaluationConfig, seed: int = 0) -> np.ndarray:
    """Return bootstrap means [R, M] of per-user values [M, U]; the same users are drawn for every metric."""
    num_users = values_MU.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((config.resamples, len(values_MU)))
    for at in range(config.resamples):
        drawn = np.bincount(generator.integers(num_users, size=num_users), minlength=num_users)
        means[at] = values_MU @ drawn / num_users
    return means


def interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of bootstrap samples [R]; NaN samples (undefined there) are left out."""
    tail = (1 - confidence) / 2
    known = samples[~np.isnan(samples)]
    if not len(known):
        return float("nan"), float("nan")
    return float(np.quantile(known, tail)), float(np.quantile(known, 1 - tail))
