"""One learned vector per item."""

from typing import Literal

import pyarrow as pa
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.schema import PAD
from raysys.model.items.encoder import ItemEncoder
from raysys.model.lookup import look_up


class IdEmbedding(ItemEncoder):
    """A table of vectors, learned from nothing but the logs."""

    class Config(FrozenConfig):
        """Learned item vectors."""

        kind: Literal["id"] = "id"
        init_std: float = Field(0.02, gt=0)
        """Standard deviation of the vectors at the start; the smaller, the nearer a rare item stays to no opinion."""

    def __init__(self, config: Config, vocabulary_size: int, width: int) -> None:
        super().__init__(config, vocabulary_size, width)
        self.embedding = nn.Embedding(vocabulary_size, width)
        nn.init.normal_(self.embedding.weight, std=config.init_std)
        self.embedding.weight.data[PAD].zero_()

    def forward(self, items: Tensor) -> Tensor:
        """Look the vectors up."""
        return look_up(items, self.embedding.weight)

    def table(self) -> Tensor:
        """Return the weight itself: no copy."""
        return self.embedding.weight

    def of_new(self, rows: pa.Table) -> Tensor:
        """Return vectors of 0: nothing was learned of them, so the encoders beside this one say it all."""
        return self.embedding.weight.new_zeros(len(rows), self.embedding.embedding_dim)
