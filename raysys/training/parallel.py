"""Ranks. The loop asks this object and never torch.distributed, so that one process needs no group at all."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Parallel:
    """Where this process stands among the workers of a run."""

    rank: int
    world_size: int
    device: torch.device

    @staticmethod
    def current(gpu: bool = False) -> "Parallel":
        """Describe this process: a rank of the initialised process group (Ray Train's or torchrun's), or alone."""
        grouped = dist.is_available() and dist.is_initialized()
        rank, size = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        local = int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.device_count() > 1 else 0
        return Parallel(rank, size, torch.device("cuda", local) if gpu else torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over ranks; as it is when there is one, or nothing to train."""
        if self.world_size == 1:
            return module
        # Buffers are observed, the same on every rank: sending them at every step would cost as much as they are large.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """Return a block in which gradients of a wrapped module stay on this rank, to be averaged with later ones."""
        if isinstance(module, DistributedDataParallel):
            apart: AbstractContextManager[None] = module.no_sync()
            return apart
        return nullcontext()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, on every rank, without gradient."""
        total = tensor.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()
