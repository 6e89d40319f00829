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

    @abstractmethod
    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Return fresh scores [B, A] of some items."""


class Products(Scores):
    """Query . vector: what retrieving tasks are trained for."""

    def __init__(self, table_ID: Tensor) -> None:
        self.table_ID = table_ID.detach()
        self.num_items = len(table_ID)

    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Multiply."""
        return queries_BD @ self.table_ID[columns_A].T


class Cosines(Products):
    """The cosine with unit queries."""

    @cached_property
    def _lengths(self) -> Tensor:
        return torch.linalg.vector_norm(self.table_ID, dim=-1).clamp(min=1e-12)

    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Multiply, and divide by the lengths of the vectors."""
        return super().of(queries_BD, columns_A) / self._lengths[columns_A]


class Counts(Scores):
    """The same for everybody: how often items were had."""

    def __init__(self, counts_I: Tensor) -> None:
        self.counts_I = counts_I
        self.num_items = len(counts_I)

    def of(self, queries_BD: Tensor, columns_A: slice | Tensor) -> Tensor:
        """Repeat the counts."""
        return self.counts_I[columns_A].repeat(len(queries_BD), 1)
