"""Columns -> vectors: an embedding for every field.

A number is seen as the bucket between the quantiles of training that it lies in, so that neither its scale nor outliers
matter, and what is unknown has a bucket of its own. Several values of one category are averaged.

Legend of shapes: * as in the columns, F fields, E width of a field, G numbers, Q quantiles.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysys.data.batches import Columns
from raysys.data.columns import ColumnSchema
from raysys.data.schema import PAD, UNKNOWN

NUM_QUANTILES = 15
_BUCKETS = NUM_QUANTILES + 2  # those between quantiles, and one for what is unknown


class FieldEncoder(nn.Module):
    """Embeds the fields of a schema; those that a batch does not bring are unknown."""

    edges_GQ: Tensor

    def __init__(self, schema: ColumnSchema, width: int) -> None:
        super().__init__()
        self.schema, self.width = schema, width
        sizes = [_BUCKETS] * len(schema.numbers) + list(schema.categories.values())
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        self.embedding = nn.Embedding(self.offsets[-1], width)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.register_buffer("edges_GQ", torch.zeros(len(schema.numbers), NUM_QUANTILES))

    def observe(self, quantiles: Mapping[str, np.ndarray]) -> None:
        """Take the quantiles of the numbers over the training period."""
        for at, name in enumerate(self.schema.numbers):
            self.edges_GQ[at].copy_(torch.from_numpy(quantiles[name]))

    def forward(self, columns: Columns, shape: Sequence[int]) -> Tensor:
        """Return the vectors of the fields [*, F, E]; `shape` is the *, also where no column is given."""
        single, several = [], []
        for at, name in enumerate(self.schema.numbers):
            single.append(self._bucket(columns.numbers.get(name), at, shape) + self.offsets[at])
        for at, name in enumerate(self.schema.categories, start=len(self.schema.numbers)):
            values = columns.categories.get(name)
            if name in self.schema.lists:
                several.append(self._mean(values, at, shape))
            else:
                known = self._unknown(shape) if values is None else values
                single.append(self._within(known, at) + self.offsets[at])
        parts = [F.embedding(torch.stack(single, dim=-1), self.embedding.weight)] if single else []
        return torch.cat([*parts, *(part.unsqueeze(-2) for part in several)], dim=-2)

    def _bucket(self, values: Tensor | None, at: int, shape: Sequence[int]) -> Tensor:
        if values is None:
            return torch.zeros(tuple(shape), dtype=torch.int64, device=self.edges_GQ.device)
        return torch.where(values.isnan(), 0, torch.bucketize(values, self.edges_GQ[at]) + 1)

    def _within(self, values: Tensor, at: int) -> Tensor:
        """A value that came with later days is as unknown as one that never came."""
        return torch.where(values < self.offsets[at + 1] - self.offsets[at], values, UNKNOWN)

    def _mean(self, values: Tensor | None, at: int, shape: Sequence[int]) -> Tensor:
        values = self._unknown(shape).unsqueeze(-1) if values is None else values
        there = (values != PAD).unsqueeze(-1)
        vectors = F.embedding(self._within(values, at) + self.offsets[at], self.embedding.weight) * there
        return vectors.sum(-2) / there.sum(-2).clamp(min=1)

    def _unknown(self, shape: Sequence[int]) -> Tensor:
        return torch.full(tuple(shape), UNKNOWN, dtype=torch.int64, device=self.edges_GQ.device)
