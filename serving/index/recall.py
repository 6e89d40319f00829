"""How much of the exact answer an index finds, measured when it is built."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from raysys.data.schema import FIRST_ITEM
from serving.index.exact import search_exactly
from serving.index.index import Asked, Index

_DEPTH = 100


@dataclass(frozen=True)
class Recall:
    """The share of the best items that are found, over some queries."""

    value: float
    depth: int
    queries: int

    def describe(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"value": self.value, "at": self.depth, "queries": self.queries}


def measure_recall(index: Index, queries_BD: Tensor) -> Recall:
    """Compare an index with exact search."""
    everybody = Asked(queries_BD, [np.zeros(0, np.int64)] * len(queries_BD))
    depth = min(_DEPTH, index.products.num_items)
    exact = search_exactly(index.products, everybody, depth).items_BK.numpy()
    found = [index.search(everybody.rows([row]), depth).items_BK[0].numpy() for row in range(len(queries_BD))]
    right = [np.isin(own, there[there >= FIRST_ITEM]).mean() for own, there in zip(exact, found, strict=True)]
    return Recall(float(np.mean(right)), depth, len(queries_BD))
