"""Target encoding: how far the labels of an item, of items of its category, of its context lie from the labels of all.

Micci-Barreca (2001), "A preprocessing scheme for high-cardinality categorical attributes", eq. 3 and 4: means shrunk
to that of all by a prior weight. An embedding learns the same from the gradient, but in many more steps.

Legend of shapes: N pairs, V vocabulary, K folds, G groups, L labels, F columns: L for each way to group.
"""

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.columns import ColumnSchema
from raysys.data.dataset import Dataset
from raysys.data.label_sums import LabelSums, label_sums
from raysys.data.schema import UNKNOWN

_ITEM, _CONTEXT = "", " of context"
"""The way to group in which every item is a group of its own, and what tells categories of context from those of items:
no category can have such a name."""


class TargetEncodingConfig(FrozenConfig):
    """Means of labels over training events as fields of items and of what they were shown in."""

    folds: int = Field(10, ge=2)
    """Parts of the users: in training, a pair is told what the users of the other parts did."""
    prior: float = Field(20.0, gt=0)
    """Weight of the mean of all events beside those of a group, in events."""


class TargetEncoding(nn.Module):
    """Numbers of an item and of its context by what came of showing it, to other users."""

    def __init__(
        self,
        config: TargetEncodingConfig,
        items: ColumnSchema,
        context: ColumnSchema,
        vocabulary_size: int,
        labels: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.folds, self.prior = config.folds, config.prior
        self.sizes = {_ITEM: vocabulary_size}
        self.sizes |= {name: size for name, size in items.categories.items() if name not in items.lists}
        self.context = {name + _CONTEXT: name for name in context.categories}
        self.sizes |= {name + _CONTEXT: size for name, size in context.categories.items()}
        self.width = len(self.sizes) * len(labels)
        """F."""
        for at, size in enumerate(self.sizes.values()):
            self.register_buffer(f"known_{at}", torch.zeros(size, len(labels)))
            self.register_buffer(f"others_{at}", torch.zeros(config.folds, size, len(labels)), persistent=False)

    def observe(self, dataset: Dataset, categories: Mapping[str, Tensor]) -> None:
        """Take the labels of training; `categories` gives the value of every vocabulary index [V] by name."""
        of_items = [name for name in self.sizes if name != _ITEM and name not in self.context]
        groups = {name: categories[name].cpu().numpy() for name in of_items}
        found = label_sums(dataset, groups | {_ITEM: np.arange(self.sizes[_ITEM])}, self.folds, self.context)
        for at, name in enumerate(self.sizes):
            known_GF, others_KGF = self._encoded(found[name])
            self.get_buffer(f"known_{at}")[: len(known_GF)] = torch.from_numpy(known_GF)
            self.get_buffer(f"others_{at}")[:, : len(known_GF)] = torch.from_numpy(others_KGF)

    def forward(
        self, items_N: Tensor, categories: Mapping[str, Tensor], context: Mapping[str, Tensor], users_N: Tensor
    ) -> Tensor:
        """Return [N, F]; in training without what the users of the own fold did, so that no label tells itself.

        `categories` are those of the items [N], `context` those of the pairs [N]; what is not there is unknown.
        """
        parts = []
        for at, (name, size) in enumerate(self.sizes.items()):
            if name in self.context:
                values_N = context.get(self.context[name], torch.full_like(items_N, UNKNOWN))
                groups_N = torch.where(values_N < size, values_N, UNKNOWN)  # later days bring new values
            else:
                groups_N = items_N if name == _ITEM else categories[name]
            if self.training:
                parts.append(self.get_buffer(f"others_{at}")[users_N % self.folds, groups_N])
            else:
                parts.append(self.get_buffer(f"known_{at}")[groups_N])
        return torch.cat(parts, dim=-1)

    def _encoded(self, found: LabelSums) -> tuple[np.ndarray, ...]:
        """Return the encodings by all folds [G, F] and by all but each [K, G, F], centred over training events."""
        sums_GL, counts_GL = found.sums_KGL.sum(0), found.counts_KGL.sum(0)
        mean_L = sums_GL.sum(0) / counts_GL.sum(0).clip(1)
        known_GF = self._shrunk(sums_GL, counts_GL, mean_L)
        others_KGF = self._shrunk(sums_GL - found.sums_KGL, counts_GL - found.counts_KGL, mean_L)
        events_G = counts_GL.max(1, initial=0) + 1e-9  # never all zero
        centre_F = np.average(known_GF, axis=0, weights=events_G)
        size_F = np.sqrt(np.average((known_GF - centre_F) ** 2, axis=0, weights=events_G)) + 1e-9
        return tuple(((part - centre_F) / size_F).astype(np.float32) for part in (known_GF, others_KGF))

    def _shrunk(self, sums: np.ndarray, counts: np.ndarray, mean_L: np.ndarray) -> np.ndarray:
        """Return the distances of means from the mean of all, shrunk [*, L]."""
        return (sums - counts * mean_L) / (counts + self.prior)
