"""Columns -> vectors: an embedding for every field.

A number is seen as the bucket between the quantiles of training that it lies in, so that neither its scale nor outliers
matter, and what is unknown has a bucket of its own. Several values of one category are averaged.

Legend of shapes: * as in the columns, F fields, E width of a field, G numbers, Q quantiles.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raysys.data.batches import Columns
from raysys.data.columns import ColumnSchema
from raysys.data.schema import PAD, UNKNOWN
from raysys.model.lookup import look_up

NUM_QUANTILES = 15
_BUCKETS = NUM_QUANTILES + 2  # those between quantiles, and one for what is unknown


class FieldEncoder(nn.Module):
    """Embeds the fields of a schema; those that a batch does not bring are unknown."""

    edges_GQ: Tensor
    sizes_F: Tensor
    starts_F: Tensor

    def __init__(self, schema: ColumnSchema, width: int) -> None:
        super().__init__()
        self.schema, self.width = schema, width
        sizes = [_BUCKETS] * len(schema.numbers) + list(schema.categories.values())
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        self.embedding = nn.Embedding(self.offsets[-1], width)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.register_buffer("edges_GQ", torch.zeros(len(schema.numbers), NUM_QUANTILES))
        names = (*schema.numbers, *schema.categories)
        single = [at for at, name in enumerate(names) if name not in schema.lists]
        self.register_buffer("sizes_F", torch.tensor([sizes[at] for at in single]).long(), persistent=False)
        self.register_buffer("starts_F", torch.tensor([self.offsets[at] for at in single]).long(), persistent=False)

    def observe(self, quantiles: Mapping[str, np.ndarray]) -> None:
        """Take the quantiles of the numbers over the training period."""
        for at, name in enumerate(self.schema.numbers):
            self.edges_GQ[at].copy_(torch.from_numpy(quantiles[name]))

    def forward(self, columns: Columns, shape: Sequence[int]) -> Tensor:
        """Return the vectors of the fields [*, F, E]; `shape` is the *, also where no column is given."""
        single, several = self._buckets(columns, shape), []
        for at, name in enumerate(self.schema.categories, start=len(self.schema.numbers)):
            values = columns.categories.get(name)
            if name in self.schema.lists:
                several.append(self._mean(values, at, shape))
            else:
                single.append(self._unknown(shape) if values is None else values)
        parts = [look_up(self._places(single), self.embedding.weight)] if single else []
        return torch.cat([*parts, *(part.unsqueeze(-2) for part in several)], dim=-2)

    def _buckets(self, columns: Columns, shape: Sequence[int]) -> list[Tensor]:
        if not self.schema.numbers:
            return []
        unknown = torch.full(tuple(shape), torch.nan, device=self.edges_GQ.device)
        values = torch.stack([columns.numbers.get(name, unknown) for name in self.schema.numbers])
        buckets = torch.searchsorted(self.edges_GQ, values.flatten(1)).view(values.shape) + 1
        return list(torch.where(values.isnan(), 0, buckets))

    def _places(self, single: Sequence[Tensor]) -> Tensor:
        """Return the rows of the table [*, F]; a value that came with later days is as unknown as one that never came.

        All fields at once: on batches of a thousand pairs the calls cost more than the work.
        """
        values = torch.stack(tuple(single), dim=-1)
        return torch.where(values < self.sizes_F, values, UNKNOWN) + self.starts_F

    def _mean(self, values: Tensor | None, at: int, shape: Sequence[int]) -> Tensor:
        values = self._unknown(shape).unsqueeze(-1) if values is None else values
        there = (values != PAD).unsqueeze(-1)
        size, start = self.offsets[at + 1] - self.offsets[at], self.offsets[at]
        places = torch.where(values < size, values, UNKNOWN) + start
        vectors = look_up(places, self.embedding.weight) * there
        return vectors.sum(-2) / there.sum(-2).clamp(min=1)

    def _unknown(self, shape: Sequence[int]) -> Tensor:
        return torch.full(tuple(shape), UNKNOWN, dtype=torch.int64, device=self.edges_GQ.device)
