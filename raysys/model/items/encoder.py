"""The contract of an item encoder: ids in, vectors out."""

from abc import abstractmethod
from typing import ClassVar, Protocol

import pyarrow as pa
import torch
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.dataset import Dataset
from raysys.errors import UserError


class ItemVectors(Protocol):
    """Vectors of items, however they are made."""

    def __call__(self, items: Tensor) -> Tensor:
        """Return f32[*, D] for i64[*]."""
        ...

    def table(self) -> Tensor:
        """Return the vectors of all real items [V - 2, D]; row i is item i + 2."""
        ...


class ItemEncoder(nn.Module):
    """Maps item indices to vectors: forward(i64[*]) -> f32[*, D]. PAD may map to anything: it is never a target."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig, vocabulary_size: int, width: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size

    def observe(self, dataset: Dataset) -> None:
        """Take what is needed of the training period, for instance texts; by default nothing. Called once."""

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """Return f32[*, D]."""

    def of_new(self, rows: pa.Table) -> Tensor:
        """Return the vectors [N, D] of items that training never saw, from rows like those of a catalog.

        Raises:
            UserError: an item is nothing but its id here, or what read the others is gone.
        """
        raise UserError(
            f"model.items: {type(self).__name__} knows items of training alone; train with `items: text` and nothing "
            "beside it for vectors of new ones"
        )

    def table(self) -> Tensor:
        """Return the vectors of the whole vocabulary [V, D]."""
        device = next(self.parameters()).device
        return self(torch.arange(self.vocabulary_size, device=device))
