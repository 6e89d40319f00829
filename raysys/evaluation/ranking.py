"""Full ranking: the K best items of the whole catalogue per user, and how well they meet what was held out.

Evaluation, bulk recommendation and serving call `recommend`: there is no second way to a list of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raysys.data.batches import Queries
from raysys.data.schema import FIRST_ITEM
from raysys.tasks.multitask import MultiTask


@dataclass(frozen=True)
class Candidates:
    """The best items of each user, best first. Where fewer than K are left, items are PAD and scores -inf."""

    items_BK: Tensor  # i64, vocabulary index
    scores_BK: Tensor  # f32


class Scorer(Protocol):
    """Scores the whole catalogue for a batch of queries: [B, V - 2], column i is item i + 2."""

    def __call__(self, queries: Queries) -> Tensor:
        """Return fresh scores that the caller may change."""
        ...


class ModelScorer:
    """Scores by a run's retrieval task; the item table is computed once."""

    def __init__(self, network: MultiTask, task: str | None = None) -> None:
        self.network = network
        self.retriever = network.retriever(task)
        with torch.inference_mode():
            self.table_VD = network.recommender.items.table()

    @torch.inference_mode()
    def __call__(self, queries: Queries) -> Tensor:
        """Encode the histories and multiply with all items."""
        encoded = self.network.recommender(queries.history)
        states_BD = encoded.state_before(queries.anchor_B.unsqueeze(1)).squeeze(1)
        return self.retriever.query(states_BD) @ self.table_VD.T


class PopularityScorer:
    """The same list for everybody: most training events first, ties by vocabulary order."""

    def __init__(self, popularity_V: np.ndarray) -> None:
        counts = popularity_V[FIRST_ITEM:]
        order = np.lexsort((np.arange(len(counts)), -counts))
        ranks = np.empty(len(counts), np.float32)
        ranks[order] = np.arange(len(counts), 0, -1)
        self.ranks = torch.from_numpy(ranks)

    def __call__(self, queries: Queries) -> Tensor:
        """Return the popularity rank from below, once per user."""
        return self.ranks.to(queries.anchor_B.device).repeat(len(queries.anchor_B), 1)


@torch.inference_mode()
def recommend(scorer: Scorer, queries: Queries, k: int, exclude_seen: bool = True) -> Candidates:
    """Return the k best items per user by partial selection, leaving out what they had."""
    scores_BV = scorer(queries)
    if exclude_seen:
        known = queries.seen_items_N >= FIRST_ITEM
        scores_BV[queries.seen_rows_N[known], queries.seen_items_N[known] - FIRST_ITEM] = -torch.inf
    scores_BK, places_BK = scores_BV.topk(min(k, scores_BV.shape[1]), dim=1)
    items_BK = torch.where(scores_BK > -torch.inf, places_BK + FIRST_ITEM, 0)
    return Candidates(items_BK, scores_BK)


def ranking_metrics(
    items_UK: np.ndarray, rows_N: np.ndarray, relevant_N: np.ndarray, depths: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return per-user metrics [U] of ranked lists against held-out (row, item) pairs.

    With R held-out items per user: recall = hits / R, hit_rate = any hit, ndcg with binary gains (ideal: R hits
    first), mrr = 1 / rank of the first hit; each within the first k. Lists shorter than k miss.
    """
    rows_N, relevant_N = _distinct(rows_N, relevant_N)
    num_users, width = len(items_UK), max(depths)
    hits_NK = (items_UK[rows_N, :width] == relevant_N[:, None]) & (relevant_N[:, None] >= FIRST_ITEM)
    hits_UK = np.zeros((num_users, width), bool)
    users_at, places_at = np.nonzero(hits_NK)
    hits_UK[rows_N[users_at], places_at] = True
    total_U = np.maximum(np.bincount(rows_N, minlength=num_users), 1)
    discount_K = 1 / np.log2(np.arange(2, width + 2))
    ideal_K = np.concatenate([[0], np.cumsum(discount_K)])
    first_U = np.where(hits_UK.any(1), hits_UK.argmax(1), width)
    metrics = {}
    for k in depths:
        found_U = hits_UK[:, :k].sum(1)
        metrics[f"ndcg@{k}"] = hits_UK[:, :k] @ discount_K[:k] / ideal_K[np.minimum(total_U, k)]
        metrics[f"recall@{k}"] = found_U / total_U
        metrics[f"hit_rate@{k}"] = (found_U > 0).astype(float)
        metrics[f"mrr@{k}"] = np.where(first_U < k, 1 / (first_U + 1), 0.0)
    return metrics


def coverage(items_UK: np.ndarray, k: int, num_items: int) -> float:
    """Return the share of the catalogue that stands in somebody's first k."""
    shown = np.unique(items_UK[:, :k])
    return float((shown >= FIRST_ITEM).sum() / max(num_items, 1))


def _distinct(rows_N: np.ndarray, items_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count an item once per user; items that training never saw cannot be told apart and all count."""
    known = items_N >= FIRST_ITEM
    pairs = np.unique(np.stack([rows_N[known], items_N[known]], axis=1), axis=0)
    return np.concatenate([pairs[:, 0], rows_N[~known]]), np.concatenate([pairs[:, 1], items_N[~known]])
