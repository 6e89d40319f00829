"""Exact search by the library's own ranking: over all items, past forbidden ones, or among a few."""

from typing import Any, Literal

import torch
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.batches import History, Queries
from raysys.data.schema import FIRST_ITEM
from raysys.evaluation.ranking import Candidates, Scorer, recommend
from serving.index.allowed import Allowed
from serving.index.index import Asked, Index
from serving.index.scores import Scores

_NOTHING = torch.zeros(0, dtype=torch.int64)
_NONE = _NOTHING.unsqueeze(0)
_NO_HISTORY = History(_NONE, _NONE, _NONE, _NONE.bool(), _NOTHING)


class Exact(Index):
    """All items are scored, block by block."""

    class Config(FrozenConfig):
        """Exact search has no settings."""

        kind: Literal["exact"] = "exact"

    def search(self, asked: Asked, k: int, allowed: Allowed | None = None) -> Candidates:
        """Score all items."""
        return search_exactly(self.products, asked, k, allowed)

    def describe(self) -> dict[str, Any]:
        """Exact is exact."""
        return {"kind": "exact", "items": self.products.num_items}


def search_exactly(scores: Scores, asked: Asked, k: int, allowed: Allowed | None = None) -> Candidates:
    """Return the k best items of each query, on the CPU wherever they were scored."""
    rows_N, items_N = asked.pairs()
    if allowed is None or not allowed.is_narrow:
        return _best(_Known(scores, asked, allowed), _queries(asked, rows_N, items_N), scores.device, k)
    columns_A = allowed.columns
    if not len(columns_A):
        empty = torch.zeros(len(asked.queries_BD), 0)
        return Candidates(empty.long(), empty)
    at_N = torch.searchsorted(columns_A, items_N - FIRST_ITEM).clamp(max=len(columns_A) - 1)
    here_N = columns_A[at_N] == items_N - FIRST_ITEM
    queries = _queries(asked, rows_N[here_N], at_N[here_N] + FIRST_ITEM)
    found = _best(_Few(scores, asked, columns_A), queries, scores.device, k)
    picked_BK = columns_A[(found.items_BK - FIRST_ITEM).clamp(min=0)] + FIRST_ITEM
    return Candidates(torch.where(found.scores_BK > -torch.inf, picked_BK, 0), found.scores_BK)


def _best(scorer: Scorer, queries: Queries, device: torch.device, k: int) -> Candidates:
    found = recommend(scorer, queries.to(device), k)
    return Candidates(found.items_BK.cpu(), found.scores_BK.cpu())


class _Known:
    """Scorer whose queries are known already; forbidden items score -inf."""

    def __init__(self, scores: Scores, asked: Asked, allowed: Allowed | None) -> None:
        self._scores, self._asked, self._allowed = scores, asked, allowed
        self.num_items = scores.num_items

    def ask(self, queries: Queries) -> Tensor:
        return self._asked.queries_BD

    def block(self, asked: Tensor, start: int, stop: int) -> Tensor:
        scores_BW = self._scores.of(asked, slice(start, stop))
        if self._allowed is not None:
            forbidden_W = self._allowed.forbidden[start:stop].to(scores_BW.device, non_blocking=True)
            scores_BW.masked_fill_(forbidden_W, -torch.inf)
        return scores_BW


class _Few:
    """Scorer of a catalogue that holds only some items."""

    def __init__(self, scores: Scores, asked: Asked, columns_A: Tensor) -> None:
        self._scores, self._asked, self._columns_A = scores, asked, columns_A
        self.num_items = len(columns_A)

    def ask(self, queries: Queries) -> Tensor:
        return self._asked.queries_BD

    def block(self, asked: Tensor, start: int, stop: int) -> Tensor:
        return self._scores.of(asked, self._columns_A[start:stop])


def _queries(asked: Asked, rows_N: Tensor, items_N: Tensor) -> Queries:
    anchor_B = torch.zeros(len(asked.queries_BD), dtype=torch.int64)
    return Queries(_NO_HISTORY, anchor_B, rows_N, items_N, _NOTHING, _NOTHING)
