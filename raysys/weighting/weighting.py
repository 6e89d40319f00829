"""The contract of a weighting: the losses of all tasks become one."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from raysys.component import FrozenConfig


@dataclass(frozen=True)
class Combined:
    """One loss to go backward from, and the weights that made it."""

    total: Tensor  # scalar
    weights_T: Tensor


class Weighting(nn.Module):
    """Combines task losses. A leaf: it knows names and numbers, no model.

    What it remembers are parameters, which the run's optimizer trains, and buffers: both are in every checkpoint. It
    draws nothing from torch's generator, which differs between ranks, so every rank finds the same weights.
    """

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig, tasks: tuple[str, ...]) -> None:
        """Take the names of the tasks, in the order of the losses."""
        super().__init__()
        self.tasks = tasks

    @abstractmethod
    def combine(self, losses_T: Tensor, gram: Callable[[], Tensor]) -> Combined:
        """Combine losses that are already means over all ranks, none below 0; 0 where a step has no valid target.

        `gram` gives the [T, T] inner products of the task gradients at the shared representation, up to a factor; it
        costs a backward pass per task, so only weightings that need it call it.
        """

    def end_epoch(self, losses_T: Tensor) -> None:
        """Take in the mean losses of an epoch that has ended, the same on every rank; by default nothing is done."""
