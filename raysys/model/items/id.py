"""One learned vector per item."""

from typing import Literal

import pyarrow as pa
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.schema import FIRST_ITEM, PAD
from raysys.errors import UserError
from raysys.model.draws import draw_uniform
from raysys.model.items.encoder import ItemEncoder, ItemVectors

_DROPPED = 21  # stream of draws


class IdEmbedding(ItemEncoder):
    """A table of vectors, learned from nothing but the logs.

    With `dropout`, every step of training takes the vectors of some items away, for tokens, targets and negatives
    alike (DropoutNet: Volkovs et al., 2017, section 4.2). The others stay as they are instead of being scaled up: so
    training sees items with their own vectors, as known ones are later, and items without, as new ones are.
    """

    class Config(FrozenConfig):
        """Learned item vectors."""

        kind: Literal["id"] = "id"
        dropout: float = Field(0.0, ge=0, lt=1)
        """Chance of an item to be without its own vector for a step of training, so that the encoders beside this one
        learn to stand for it alone: then they stand for new items too."""

    def __init__(self, config: Config, vocabulary_size: int, width: int) -> None:
        super().__init__(config, vocabulary_size, width)
        self.dropout = config.dropout
        self.embedding = nn.Embedding(vocabulary_size, width)
        nn.init.normal_(self.embedding.weight, std=0.02)  # small: a rare item starts near no opinion at all
        self.embedding.weight.data[PAD].zero_()

    def forward(self, items: Tensor) -> Tensor:
        """Look the vectors up."""
        return F.embedding(items, self.embedding.weight)

    def table(self) -> Tensor:
        """Return the weight itself: no copy."""
        return self.embedding.weight

    def at_step(self, key: int) -> ItemVectors:
        """Return the vectors with those of some items at 0."""
        return _Thinned(self.embedding.weight, self.dropout, key) if self.training and self.dropout else self

    def of_new(self, rows: pa.Table) -> Tensor:
        """Return vectors of 0, as dropped items had them in training.

        Raises:
            UserError: none was dropped.
        """
        if not self.dropout:
            raise UserError(
                "model.items: IdEmbedding knows items of training alone; for vectors of new ones train with "
                "`items: {id: {dropout: 0.3}, text: {}}`, or with `items: text` and nothing beside it"
            )
        return self.embedding.weight.new_zeros(len(rows), self.embedding.embedding_dim)


class _Thinned:
    """A table in which the rows of some items count as 0; which ones is a function of the step and the item."""

    def __init__(self, weight_VD: Tensor, chance: float, key: int) -> None:
        self._weight_VD, self._chance, self._key = weight_VD, chance, key

    def __call__(self, items: Tensor) -> Tensor:
        """Look vectors up; nothing is drawn for other items."""
        return F.embedding(items, self._weight_VD) * self._stay(items)

    def table(self) -> Tensor:
        """Return all rows [V, D]."""
        return self._weight_VD * self._stay(torch.arange(len(self._weight_VD), device=self._weight_VD.device))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a key would be compiled in, one for every step
    def _stay(self, items: Tensor) -> Tensor:
        """Return 1 for items that keep their vectors, and for what is no item, else 0; f32[*, 1]."""
        everywhere = torch.zeros(1, dtype=torch.int64, device=items.device)
        drawn = draw_uniform(self._key, everywhere, items.reshape(-1), 1, _DROPPED).view(*items.shape, 1)
        return ((drawn >= self._chance) | (items.unsqueeze(-1) < FIRST_ITEM)).to(self._weight_VD.dtype)
