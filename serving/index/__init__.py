"""How the best items of a query are found. To add a kind: a class in a file here, and a line in INDEXES."""

from collections.abc import Callable

from torch import Tensor

from raysys.component import FrozenConfig, kind_of
from serving.index.allowed import Allowed
from serving.index.approximate import Approximate, Flat16
from serving.index.auto import Auto
from serving.index.exact import Exact, search_exactly
from serving.index.extended import Extended
from serving.index.index import Asked, Index
from serving.index.scores import Cosines, Counts, Products, Scores

INDEXES: dict[str, type[Index]] = {"auto": Auto, "exact": Exact, "flat16": Flat16, "approximate": Approximate}
"""Kind -> class."""


def make_index(config: FrozenConfig, products: Products, sample: Callable[[], Tensor]) -> Index:
    """Build the index that a config describes."""
    return INDEXES[kind_of(config)](config, products, sample)


__all__ = [
    "INDEXES",
    "Allowed",
    "Asked",
    "Cosines",
    "Counts",
    "Extended",
    "Index",
    "Products",
    "Scores",
    "make_index",
    "search_exactly",
]
