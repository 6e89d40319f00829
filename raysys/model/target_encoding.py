"""Target encoding: how far the labels of an item, and of the items of its category, lie from the labels of all.

Micci-Barreca (2001), "A preprocessing scheme for high-cardinality categorical attributes", eq. 3 and 4: means shrunk
to that of all by a prior weight. An embedding learns the same from the gradient, but in many more steps.

Legend of shapes: N pairs, V vocabulary, K folds, G groups, L labels, F columns: L + 1 for each way to group.
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
from raysys.data.schema import FIRST_ITEM

_ITEM = ""
"""The way to group in which every item is a group of its own: no category can have this name."""


class TargetEncodingConfig(FrozenConfig):
    """Means of labels over training events as fields of items."""

    folds: int = Field(10, ge=2)
    """Parts of the users: in training, a pair is told what the users of the other parts did."""
    prior: float = Field(20.0, gt=0)
    """Weight of the mean of all events beside those of a group, in events."""


class TargetEncoding(nn.Module):
    """Numbers of an item by what came of showing it, to other users."""

    def __init__(
        self, config: TargetEncodingConfig, schema: ColumnSchema, vocabulary_size: int, labels: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.folds, self.prior, self.labels = config.folds, config.prior, labels
        self.sizes = {_ITEM: vocabulary_size}
        self.sizes |= {name: size for name, size in schema.categories.items() if name not in schema.lists}
        self.width = len(self.sizes) * (len(labels) + 1)
        """F."""
        for at, size in enumerate(self.sizes.values()):
            self.register_buffer(f"known_{at}", torch.zeros(size, len(labels) + 1))
            self.register_buffer(f"others_{at}", torch.zeros(config.folds, size, len(labels) + 1), persistent=False)

    def observe(self, dataset: Dataset, categories: Mapping[str, Tensor]) -> None:
        """Take the labels of training; `categories` gives the value of every vocabulary index [V] by name."""
        groups = {name: categories[name].numpy() for name in self.sizes if name != _ITEM}
        groups[_ITEM] = np.arange(self.sizes[_ITEM])
        found = label_sums(dataset, groups, self.folds)
        for at, (name, size) in enumerate(self.sizes.items()):
            known_GF, others_KGF = self._encoded(found[name])
            self.get_buffer(f"known_{at}")[: len(known_GF)] = known_GF
            self.get_buffer(f"others_{at}")[:, : len(known_GF)] = others_KGF
            assert len(known_GF) <= size

    def forward(self, items_N: Tensor, categories: Mapping[str, Tensor], users_N: Tensor) -> Tensor:
        """Return [N, F]; in training without what the users of the own fold did, so that no label tells itself."""
        parts = []
        for at, name in enumerate(self.sizes):
            groups_N = items_N if name == _ITEM else categories[name]
            if self.training:
                parts.append(self.get_buffer(f"others_{at}")[users_N % self.folds, groups_N])
            else:
                parts.append(self.get_buffer(f"known_{at}")[groups_N])
        return torch.cat(parts, dim=-1)

    def _encoded(self, found: LabelSums) -> tuple[Tensor, Tensor]:
        """Return the encodings by all folds [G, F] and by all but each [K, G, F], of like scale."""
        total_GL, count_GL = found.sums_KGL.sum(0), found.counts_KGL.sum(0)
        mean_L = total_GL.sum(0) / count_GL.sum(0).clip(1)
        scale_F = None
        encoded = []
        for sums, counts in ((total_GL, count_GL), (total_GL - found.sums_KGL, count_GL - found.counts_KGL)):
            shrunk = (sums - counts * mean_L) / (counts + self.prior)
            whole = np.concatenate([shrunk, np.log1p(counts.max(-1, keepdims=True, initial=0))], axis=-1)
            if scale_F is None:
                weights_G = count_GL.max(1, initial=0)
                middle_F = np.average(whole, axis=0, weights=weights_G + 1e-9)
                scale_F = np.sqrt(np.average((whole - middle_F) ** 2, axis=0, weights=weights_G + 1e-9)) + 1e-9
            encoded.append(torch.from_numpy(((whole - middle_F) / scale_F).astype(np.float32)))
        known_GF, others_KGF = encoded
        unseen = torch.arange(len(known_GF)) < FIRST_ITEM
        known_GF[unseen] = torch.where(known_GF[unseen].isfinite(), known_GF[unseen], 0.0)
        return known_GF, others_KGF
