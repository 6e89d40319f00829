"""The final score that is made of what the tasks of a run predict for candidates."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.schema import PAD

Weights = Mapping[str, float]
"""Task -> its weight in the final score."""


class Exploration(FrozenConfig):
    """Draw lists instead of always showing the best, so that logs tell what other items would have done."""

    temperature: float = Field(gt=0)
    """Items are drawn in proportion to exp(score / temperature), scores lying between 0, the least of the candidates,
    and 1, the best: 0.05 changes little, 1 much."""


class RankingConfig(FrozenConfig):
    """How a list is made of candidates."""

    score: dict[str, float] | None = Field(None, min_length=1)
    """Task -> weight in the final score, where a request gives none; null lets the task that retrieves order alone."""
    candidates: int = Field(100, ge=1)
    """Items that are looked at where tasks, rules, diversity or exploration order them; at least 4 times k."""
    exploration: Exploration | None = None
    """Off by default: the list of a user is always the same, and every propensity is 1."""


def final_scores(
    weights: Weights, retriever: str, retrieved_K: np.ndarray, predicted: Mapping[str, np.ndarray], is_known: bool
) -> np.ndarray:
    """Return the weighted sum of what tasks predict [*, K] (docs/decisions/0024).

    The retrieving task counts by its probability among the candidates; where popularity takes its place, by the share
    of events.
    """
    parts = [weight * predicted[name] for name, weight in weights.items() if name != retriever]
    if retriever in weights:
        parts.append(weights[retriever] * _shares(retrieved_K, is_known))
    return np.sum(parts, axis=0)


def padded(lists: Sequence[np.ndarray]) -> Tensor:
    """Return lists of items side by side [B, K], PAD after their ends."""
    items_BK = torch.full((len(lists), max(map(len, lists), default=0)), PAD, dtype=torch.int64)
    for row, own in enumerate(lists):
        items_BK[row, : len(own)] = torch.from_numpy(own)
    return items_BK


def _shares(retrieved_K: np.ndarray, is_known: bool) -> np.ndarray:
    values_K = retrieved_K.astype(np.float64)
    if is_known:
        values_K = np.exp(values_K - values_K.max(axis=-1, keepdims=True, initial=-np.inf))
    total: np.ndarray = values_K.sum(axis=-1, keepdims=True)
    return values_K / np.where(total > 0, total, 1)
