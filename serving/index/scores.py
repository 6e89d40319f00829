"""How a query scores items: by product, by cosine, or not at all, by popularity.

Legend: B queries, D width, I real items, A some of them.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor


class Scores(ABC):
    """Scores of real items, counted from 0."""

    num_items: int
    device: torch.device
    """Where queries have to be, and scores are."""

    @abstractmethod
    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Return fresh scores [B, A] of some items; indices come from the CPU."""


class Products(Scores):
    """Query . vector: what retrieving tasks are trained for."""

    def __init__(self, table_ID: Tensor, new_ND: Tensor | None = None) -> None:
        """Take the vectors of a run, and those of new items, whose places are behind them."""
        self.table_ID, self.device = table_ID.detach(), table_ID.device
        self._new_ND = None if new_ND is None else new_ND.to(self.device)
        self.num_items = len(table_ID) + (0 if new_ND is None else len(new_ND))

    def vectors(self, columns_A: slice | Tensor) -> Tensor:
        """Return the vectors [A, D] of some items."""
        size = len(self.table_ID)
        if self._new_ND is None or (isinstance(columns_A, slice) and columns_A.stop <= size):
            return self.table_ID[columns_A]
        if isinstance(columns_A, slice):
            start, stop = columns_A.start, columns_A.stop
            return torch.cat([self.table_ID[start:stop], self._new_ND[max(start - size, 0) : stop - size]])
        is_new_A = columns_A >= size
        vectors_AD = self.table_ID[columns_A.clamp(max=size - 1)]
        vectors_AD[is_new_A] = self._new_ND[columns_A[is_new_A] - size]
        return vectors_AD

    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Multiply."""
        return queries_BD @ self.vectors(columns_A).T


class Cosines(Products):
    """The cosine with unit queries."""

    @cached_property
    def _lengths(self) -> Tensor:
        known_I = torch.linalg.vector_norm(self.table_ID, dim=-1)
        if self._new_ND is not None:
            known_I = torch.cat([known_I, torch.linalg.vector_norm(self._new_ND, dim=-1)])
        return known_I.clamp(min=1e-12)

    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Multiply, and divide by the lengths of the vectors."""
        return super().of(queries_BD, columns_A) / self._lengths[columns_A]


class Counts(Scores):
    """The same for everybody: how often items were had."""

    def __init__(self, counts_I: Tensor) -> None:
        self.counts_I, self.device = counts_I, counts_I.device
        self.num_items = len(counts_I)

    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Repeat the counts."""
        return self.counts_I[columns_A].repeat(len(queries_BD), 1)
