"""The contract of a task: what is learned from a batch, and what evaluation and serving may ask of it."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Batch, Targets
from raysys.model.recommender import Encoded


@dataclass(frozen=True)
class TaskContext:
    """What a task may know of the data when it is built."""

    name: str
    """The task's own name in the config."""
    width: int
    vocabulary_size: int
    event_names: tuple[str, ...]
    history: tuple[str, ...]
    labels: tuple[str, ...]
    label_means: Mapping[str, float]


@dataclass(frozen=True)
class LossSum:
    """A loss before it is averaged over all valid targets of all ranks."""

    total: Tensor  # scalar, with gradient
    count: Tensor  # scalar f32


class Task(nn.Module):
    """One thing that the model learns. Registered in TASKS; several of one kind may have different names."""

    Config: ClassVar[type[FrozenConfig]]
    source: ClassVar[Literal["users", "items", "pairs"]]
    """What one row of the task is: a user's state, an item, or a (state, item) pair."""

    def __init__(self, config: FrozenConfig, context: TaskContext) -> None:
        """Build the head. Raises UserError where the data lacks what the task needs."""
        super().__init__()
        self.name = context.name

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch as this task wants it seen: masks, crops, negatives. By default as it is."""
        return batch

    @abstractmethod
    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the task's score of every target [B, C]; evaluation and serving call this too."""

    @abstractmethod
    def loss(self, encoded: Encoded, batch: Batch, logits: Mapping[str, Tensor]) -> LossSum:
        """Return the summed loss over this rank's valid targets.

        `logits` gives, by task name, what `logits` returned for each task (computed when asked for), so that one task
        may build on another. Every parameter of the task must take part in the result, even with no valid target.
        """

    def predict(self, logits: Tensor) -> Tensor:
        """Turn logits into what users read: a probability, a rating, minutes. By default the logits."""
        return logits


@runtime_checkable
class Retrieves(Protocol):
    """A task that can ask for items: score = query . item vector, over the whole catalogue."""

    def query(self, states_ND: Tensor) -> Tensor:
        """Return query vectors [N, D] for states."""
        ...


@runtime_checkable
class ScoresPairs(Protocol):
    """A task that predicts a labelled value for a (state, item) pair."""

    label: str
    """The label that its predictions are measured against."""
    positive_from: float | None
    """Labels from here on count as positive in AUC; None where the task has no such reading."""
