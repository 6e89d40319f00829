"""An index with a few new items behind it: they are scored exactly, and the best of both are the best."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysys.data.schema import FIRST_ITEM
from raysys.evaluation.ranking import Candidates
from serving.index.allowed import Allowed
from serving.index.exact import search_exactly
from serving.index.index import Asked, Index
from serving.index.scores import Products


class Extended:
    """Searches as an Index does."""

    def __init__(self, index: Index, new_ND: Tensor) -> None:
        self._index, self._new = index, Products(new_ND.to(index.products.device))
        self._num_known = index.products.num_items
        self.products = Products(index.products.table_ID, new_ND)
        """Of all items, known and new."""

    def search(self, asked: Asked, k: int, allowed: Allowed | None = None) -> Candidates:
        """Return the k best items of each query; of equal scores those that the index knows come first."""
        of_known, of_new = (None, None) if allowed is None else allowed.cut(self._num_known)
        known = self._index.search(self._without(asked, new=False), k, of_known)
        new = search_exactly(self._new, self._without(asked, new=True), k, of_new)
        moved_BK = torch.where(new.items_BK >= FIRST_ITEM, new.items_BK + self._num_known, new.items_BK)
        items_BW = torch.cat([known.items_BK, moved_BK], dim=1)
        scores_BW, order_BW = torch.cat([known.scores_BK, new.scores_BK], dim=1).sort(
            dim=1, descending=True, stable=True
        )
        return Candidates(items_BW.gather(1, order_BW[:, :k]), scores_BW[:, :k])

    def describe(self) -> dict[str, Any]:
        """Tell what the index says, and how many items are new."""
        return {**self._index.describe(), "new_items": self._new.num_items}

    def _without(self, asked: Asked, new: bool) -> Asked:
        first = FIRST_ITEM + self._num_known
        parts = [own[own >= first] - self._num_known if new else own[own < first] for own in asked.without]
        return Asked(asked.queries_BD, [np.asarray(own, np.int64) for own in parts])
