"""Items that training never saw: their indices lie behind the vocabulary, and what is known of them is told here."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raysys.data.batches import Columns
from raysys.data.schema import UNKNOWN


@dataclass(frozen=True)
class NewItems:
    """N items; the one of index `first` + n is row n."""

    first: int
    """As many indices as the vocabulary has."""
    vectors_ND: Tensor
    columns: Columns  # features [N]

    def to(self, device: torch.device) -> "NewItems":
        """Return them on a device."""
        return NewItems(self.first, self.vectors_ND.to(device), self.columns.to(device))

    def hidden(self, items: Tensor) -> Tensor:
        """Return indices with UNKNOWN in place of new items."""
        return torch.where(items < self.first, items, UNKNOWN)

    def filled_in(self, items_A: Tensor, columns: Columns, vectors_AD: Tensor) -> tuple[Columns, Tensor]:
        """Return features and vectors of items with those of new ones in their places."""
        at = (items_A >= self.first).nonzero().squeeze(1)
        rows = items_A[at] - self.first

        def filled(known: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: values.index_copy(0, at, new[name][rows]) for name, values in known.items()}

        columns = Columns(
            filled(columns.numbers, self.columns.numbers), filled(columns.categories, self.columns.categories)
        )
        return columns, vectors_AD.index_copy(0, at, self.vectors_ND[rows])
