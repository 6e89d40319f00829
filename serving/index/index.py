"""The contract of an index: the items of the largest products with a query, exactly or nearly."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.evaluation.ranking import Candidates
from serving.index.allowed import Allowed
from serving.index.scores import Products


@dataclass(frozen=True)
class Asked:
    """Queries that are encoded, and what each must not be answered with."""

    queries_BD: Tensor
    without: list[np.ndarray]  # of each, vocabulary indices

    def rows(self, places: list[int]) -> "Asked":
        """Return some of them."""
        return Asked(self.queries_BD[places], [self.without[place] for place in places])

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return (row, item) of all that is left out."""
        rows = np.repeat(np.arange(len(self.without)), [len(own) for own in self.without])
        items = np.concatenate([np.zeros(0, np.int64), *self.without])
        return torch.from_numpy(rows), torch.from_numpy(items)


class Index(ABC):
    """Registered in INDEXES."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig, products: Products, sample: Callable[[], Tensor]) -> None:
        """Build over the vectors of a run; `sample` gives queries [B, D] to measure with.

        Raises:
            UserError: a package is missing.
        """
        self.config: Any = config
        self.products = products

    @abstractmethod
    def search(self, asked: Asked, k: int, allowed: Allowed | None = None) -> Candidates:
        """Return the k best items of each query; where fewer are left, items are PAD and scores -inf."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Tell the kind, the number of items and, where it is not exact, the recall that was measured."""
