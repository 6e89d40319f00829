"""Full ranking: the K best items of the whole catalogue per user, and how well they meet what was held out.

Evaluation, bulk recommendation and serving call `recommend`: there is no second way to a list of items. The catalogue
is scored block by block, so memory is O(users in a batch x items in a block), whatever its size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raysys.data.batches import History, Queries
from raysys.data.schema import FIRST_ITEM, PAD
from raysys.evaluation.selection import top_columns
from raysys.model.recommender import Encoded
from raysys.tasks.multitask import MultiTask
from raysys.tasks.task import Retrieves

_BLOCK_SCORES = {"cpu": 1 << 20}  # 4 MiB of scores: they are selected from while they are in the cache
_BLOCK_SCORES_ELSEWHERE = 1 << 26  # 256 MiB


@dataclass(frozen=True)
class Candidates:
    """The best items of each user, best first. Where fewer than K are left, items are PAD and scores -inf."""

    items_BK: Tensor  # i64, vocabulary index
    scores_BK: Tensor  # f32


class Scorer(Protocol):
    """Scores the catalogue for a batch of queries, one block of items at a time."""

    num_items: int
    """Real items of the catalogue."""

    def ask(self, queries: Queries) -> Any:
        """Return what blocks are scored from: states, sparse profiles, ...; called once per batch."""
        ...

    def block(self, asked: Any, start: int, stop: int) -> Tensor:
        """Return fresh scores f32 [B, stop - start], the caller's to change; column j is item FIRST_ITEM + start + j.

        A score must not depend on how the catalogue is cut into blocks, beyond rounding.
        """
        ...


class ModelScorer:
    """Scores by a run's retrieval task; the item table is computed once."""

    def __init__(self, network: MultiTask, task: str | None = None) -> None:
        """Take the named task, or the first that retrieves.

        Raises:
            UserError: no task of the run retrieves.
        """
        self.network = network
        self.retriever = network.retriever(task)
        with torch.inference_mode():
            self.table_VD = network.recommender.vectors().table()
        self.num_items = len(self.table_VD)

    @torch.inference_mode()
    def ask(self, queries: Queries, encoded: Encoded | None = None) -> Tensor:
        """Encode the histories, unless they are `encoded`, and return query vectors [B, D]."""
        return query_vectors(self.network, self.retriever, queries.history, queries.anchor_B, encoded)

    @torch.inference_mode()
    def block(self, asked: Tensor, start: int, stop: int) -> Tensor:
        """Multiply the queries with the vectors of some items."""
        return asked @ self.table_VD[start:stop].T


def query_vectors(
    network: MultiTask, retriever: Retrieves, history: History, anchor_B: Tensor, encoded: Encoded | None = None
) -> Tensor:
    """Return what a retrieving task asks with after histories [B, D]; what is `encoded` is not encoded again."""
    asking, anchor_B = retriever.ask(history, anchor_B)
    if encoded is None or asking is not history:
        encoded = network.recommender(asking)
    return retriever.query(encoded, anchor_B.unsqueeze(1)).squeeze(1)


class Among:
    """Another scorer's scores for some items; all others are left out of lists. The whole catalogue is still scored."""

    def __init__(self, scorer: Scorer, items_N: Tensor) -> None:
        """Take the vocabulary indices of the items that may be recommended."""
        self.scorer = scorer
        self.num_items = scorer.num_items
        self.closed_I = torch.ones(scorer.num_items, dtype=torch.bool)
        self.closed_I[items_N - FIRST_ITEM] = False

    def ask(self, queries: Queries) -> Any:
        """Ask the other scorer."""
        return self.scorer.ask(queries)

    def block(self, asked: Any, start: int, stop: int) -> Tensor:
        """Return its scores, -inf for the items that are left out."""
        scores_BW = self.scorer.block(asked, start, stop)
        return scores_BW.masked_fill_(self.closed_I[start:stop].to(scores_BW.device), -torch.inf)


@torch.inference_mode()
def recommend(
    scorer: Scorer, queries: Queries, k: int, exclude_seen: bool = True, block: int | None = None, asked: Any = None
) -> Candidates:
    """Return the k best items per user by exact partial selection, leaving out what they had.

    `asked` is what `scorer.ask` returned for these queries; without it the scorer is asked here.
    `block` is the number of items scored at a time; by default as many as keep the scores in a CPU's cache (2^20 of
    them), or 256 MiB of an accelerator's memory. On the CPU, equal scores rank in vocabulary order.
    """
    device, num_rows = queries.anchor_B.device, len(queries.anchor_B)
    depth = min(k, scorer.num_items)
    if not num_rows or not depth:
        return Candidates(torch.zeros(num_rows, depth, dtype=torch.int64), torch.zeros(num_rows, depth))
    step = block or max(1, _BLOCK_SCORES.get(device.type, _BLOCK_SCORES_ELSEWHERE) // num_rows)
    asked = scorer.ask(queries) if asked is None else asked
    blocks = _blocks(scorer, queries, asked, step, exclude_seen)
    columns_BK, scores_BK = top_columns(blocks, depth)
    return Candidates(torch.where(columns_BK >= 0, columns_BK + FIRST_ITEM, PAD), scores_BK)


def _blocks(
    scorer: Scorer, queries: Queries, asked: Any, step: int, exclude_seen: bool
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first column, scores [B, step]), with -inf for what a user had."""
    if step >= scorer.num_items:
        scores_BV = scorer.block(asked, 0, scorer.num_items)
        if exclude_seen:
            real_N = queries.seen_items_N >= FIRST_ITEM
            scores_BV[queries.seen_rows_N[real_N], queries.seen_items_N[real_N] - FIRST_ITEM] = -torch.inf
        yield 0, scores_BV
        return
    columns_N, order_N = (queries.seen_items_N - FIRST_ITEM).sort()
    rows_N = queries.seen_rows_N[order_N]
    starts = range(0, scorer.num_items, step)
    bounds = torch.searchsorted(columns_N, torch.tensor([*starts, scorer.num_items], device=columns_N.device)).tolist()
    for start, first, last in zip(starts, bounds[:-1], bounds[1:], strict=True):
        scores_BW = scorer.block(asked, start, min(start + step, scorer.num_items))
        if exclude_seen:
            scores_BW[rows_N[first:last], columns_N[first:last] - start] = -torch.inf
        yield start, scores_BW


def ranking_metrics(
    items_UK: np.ndarray, rows_N: np.ndarray, relevant_N: np.ndarray, depths: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return per-user metrics [U] of ranked lists against held-out (row, item) pairs.

    With R held-out items per user: recall = hits / R, hit_rate = any hit, ndcg with binary gains (ideal: R hits
    first), mrr = 1 / rank of the first hit; each within the first k. Lists shorter than k miss.
    """
    rows_N, relevant_N = distinct(rows_N, relevant_N)
    num_users, width = len(items_UK), max(depths)
    hits_UK = hits(items_UK[:, :width], rows_N, relevant_N)
    hits_UK = np.pad(hits_UK, ((0, 0), (0, width - hits_UK.shape[1])))
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


def hits(items_UK: np.ndarray, rows_N: np.ndarray, relevant_N: np.ndarray) -> np.ndarray:
    """Return which places of the lists hold an item that was held out from the same row [U, K] bool."""
    found_NK = (items_UK[rows_N] == relevant_N[:, None]) & (relevant_N[:, None] >= FIRST_ITEM)
    hits_UK = np.zeros(items_UK.shape, bool)
    at_N, places_N = np.nonzero(found_NK)
    hits_UK[rows_N[at_N], places_N] = True
    return hits_UK


def distinct(rows_N: np.ndarray, items_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count an item once per row; items that training never saw cannot be told apart and all count."""
    known = items_N >= FIRST_ITEM
    pairs = np.unique(np.stack([rows_N[known], items_N[known]], axis=1), axis=0)
    return np.concatenate([pairs[:, 0], rows_N[~known]]), np.concatenate([pairs[:, 1], items_N[~known]])
