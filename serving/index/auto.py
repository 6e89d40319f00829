"""The index that is fastest at the size of the catalogue, as far as it is right."""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.evaluation.ranking import Candidates
from serving.index.allowed import Allowed
from serving.index.approximate import Approximate, Flat16
from serving.index.exact import Exact
from serving.index.index import Asked, Index
from serving.index.scores import Products


class Auto(Index):
    """Exact for small catalogues and without faiss, in half precision above, in cells where that takes too long."""

    class Config(FrozenConfig):
        """From where on which index is taken (docs/decisions/0025)."""

        kind: Literal["auto"] = "auto"
        flat16_from: int = Field(50_000, ge=1)
        """Items from which half precision is taken, where faiss is installed."""
        approximate_from: int = Field(1_000_000, ge=1)
        """Items from which only the nearest cells are looked into: as many as find `min_recall`."""
        min_recall: float = Field(0.95, ge=0, le=1)
        """An index of cells that finds less of the exact answer is not taken."""

    def __init__(self, config: FrozenConfig, products: Products, sample: Callable[[], Tensor]) -> None:
        super().__init__(config, products, sample)
        self._chosen = self._choose(products, sample)

    def _choose(self, products: Products, sample: Callable[[], Tensor]) -> Index:
        config, size = self.config, products.num_items
        if size < min(config.flat16_from, config.approximate_from) or importlib.util.find_spec("faiss") is None:
            return Exact(Exact.Config(), products, sample)
        if size >= config.approximate_from:
            cells = Approximate(Approximate.Config(), products, sample)
            while cells.recall.value < config.min_recall and cells.look_further():
                pass
            if cells.recall.value >= config.min_recall:
                return cells
        return Flat16(Flat16.Config(), products, sample)

    def search(self, asked: Asked, k: int, allowed: Allowed | None = None) -> Candidates:
        """Search by the chosen index."""
        return self._chosen.search(asked, k, allowed)

    def describe(self) -> dict[str, Any]:
        """Tell which index was chosen."""
        return self._chosen.describe()
