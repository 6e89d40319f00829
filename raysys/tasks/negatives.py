"""Negatives for the losses that sample: drawn per target, vectorised, the same for any number of ranks."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raysys.data.dataset import Dataset
from raysys.data.schema import FIRST_ITEM
from raysys.tasks.draws import draw_below, draw_bits, draw_uniform

NEGATIVES, PAIRS, SHARES = range(3)
"""Streams: what is drawn at one place for different purposes must differ."""


@dataclass(frozen=True)
class Asked:
    """Queries with their targets: one row per valid target of a rank's share of a step."""

    queries_ND: Tensor
    targets_N: Tensor  # i64, row of the item table
    rows_N: Tensor  # i64, row of the dataset of each target's user
    places_N: Tensor  # i64, number of the target within its user's view
    key: int
    """Of the step."""


class Sampler(nn.Module):
    """Draws items with a chance in proportion to (training events)^popularity; 0 is uniform over the catalogue."""

    chances_V: Tensor
    sums_V: Tensor

    def __init__(self, num_items: int, popularity: float) -> None:
        super().__init__()
        self.popularity = popularity
        self.num_items = num_items
        even = torch.full((num_items,), 1.0 / max(num_items, 1), dtype=torch.float64)
        self.register_buffer("chances_V", even.float(), persistent=False)
        self.register_buffer("sums_V", even.cumsum(0), persistent=False)

    def observe(self, dataset: Dataset) -> None:
        """Take the popularity of items in training."""
        counts_V = torch.from_numpy(dataset.catalog.popularity[FIRST_ITEM:]).double()
        weights_V = counts_V**self.popularity
        self.chances_V.copy_(weights_V / weights_V.sum())
        self.sums_V.copy_((weights_V / weights_V.sum()).cumsum(0))

    def draw(self, asked: Asked, count: int) -> Tensor:
        """Return rows of the item table, i64 [N, count]; a target may be among its own."""
        place = (asked.key, asked.rows_N, asked.places_N, count, NEGATIVES)
        if not self.popularity:
            return draw_below(self.num_items, *place)
        return torch.searchsorted(self.sums_V, draw_uniform(*place).double()).clamp_(max=self.num_items - 1)


def shared_targets(asked: Asked, count: int) -> Tensor:
    """Return `count` of the targets of the whole step, over all ranks, i64 [count]; with repetition, by the key.

    As negatives they stand for items drawn by popularity, at the price of one matrix product.
    """
    targets_N = _gathered(asked.targets_N)
    if not len(targets_N):
        return targets_N
    nobody = torch.zeros(1, dtype=torch.int64, device=targets_N.device)
    chosen = draw_bits(asked.key, nobody - 1, nobody, count).squeeze(0) % len(targets_N)
    return targets_N.sort().values[chosen]  # sorted: whichever rank has which user


def _gathered(values_N: Tensor) -> Tensor:
    """Join the values of all ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return values_N
    size = torch.tensor([len(values_N)], device=values_N.device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    longest = int(torch.stack(sizes).max())
    padded = torch.zeros(longest, dtype=values_N.dtype, device=values_N.device)
    padded[: len(values_N)] = values_N
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, sizes, strict=True)])
