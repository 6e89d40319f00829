"""The contract of a task: what is learned from a batch, and what evaluation and serving may ask of it."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Batch, History, Targets
from raysys.data.dataset import Dataset
from raysys.data.reader import UserRows
from raysys.data.schema import Split
from raysys.errors import UserError, nearest
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
    numbers: tuple[str, ...] = ()
    """Numbers of the context that events carry."""
    has_times: bool = True
    """Whether events have times."""
    shared_width: int = 0
    """H: width of what the towers of point-wise tasks get."""


def check_known(what: str, name: str, there: Sequence[str], task: str) -> None:
    """Raise UserError where a task's config names a label or an event that is not there."""
    if name not in there:
        raise UserError(
            f"tasks.{task}.{what}: no {what.rstrip('s')} {name!r} in the dataset{nearest(name, there)} "
            f"(it has: {', '.join(there) or 'none'})"
        )


def chosen_events(events: Sequence[str], context: TaskContext, default: Sequence[str] | None = None) -> Tensor:
    """Return which events of the dataset a config chooses, bool [E]; the default, or all, where it names none.

    Raises:
        UserError: the dataset has no such event.
    """
    for name in events:
        check_known("events", name, context.event_names, context.name)
    wanted = events or (context.event_names if default is None else default)
    return torch.tensor([name in wanted for name in context.event_names] or [True])


class Task(nn.Module):
    """One thing that the model learns. Registered in TASKS; several of one kind may have different names."""

    Config: ClassVar[type[FrozenConfig]]
    source: ClassVar[Literal["users", "items", "pairs"]]
    """What one row of the task is: a user's state, an item, or a (state, item) pair."""
    anchored: ClassVar[bool] = True
    """Whether targets are scored against the state before them, which a bidirectional backbone cannot give."""
    reads_tokens: ClassVar[bool] = True
    """Whether it looks at tokens itself, beside the states that a backbone makes of them."""
    reads_newest: ClassVar[bool] = False
    """Whether a user's last event has to be a token, because what follows it is asked for."""

    def __init__(self, config: FrozenConfig, context: TaskContext) -> None:
        """Build the head. Raises UserError where the data lacks what the task needs."""
        super().__init__()
        self.name = context.name

    @property
    def reads_labels(self) -> Collection[str] | None:
        """Labels of targets that training needs; None, the default, for all. What nobody reads is not gathered."""
        return None

    def link(self, tasks: Mapping[str, "Task"]) -> None:
        """Find the tasks of the run that this one builds on; by default none. Raises UserError where one is missing."""

    def observe(self, dataset: Dataset) -> None:
        """Take the statistics of the training period that training needs; by default none. Called once, before."""

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch as this task wants it seen: with masks or crops. By default as it is."""
        return batch

    @abstractmethod
    def count(self, view: Batch) -> Tensor:
        """Return how many valid targets this rank's view has, a scalar f32: the loss is their mean over all ranks."""

    @abstractmethod
    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the task's score of every target [B, C]; evaluation and serving call this too."""

    @abstractmethod
    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Return the loss summed over this rank's valid targets, a scalar with gradient.

        `logits` gives, by task name, what `logits` returned for each task (computed when asked for), so that one task
        may build on another. Every parameter of the task must take part in the result, even with no valid target.
        """

    def predict(self, logits: Tensor) -> Tensor:
        """Turn logits into what users read: a probability, a rating, minutes. By default the logits."""
        return logits

    def truth(self, targets: Targets) -> Tensor:
        """Return what predictions are measured against [B, C], NaN where a target does not count; for ScoresPairs.

        By default it is the task's label.
        """
        labels_BC = targets.labels[self.label]  # type: ignore[index]
        return labels_BC.masked_fill(~targets.mask_BC, torch.nan)


@runtime_checkable
class Retrieves(Protocol):
    """A task that can ask for items: score = query . item vector, over the whole catalogue."""

    def ask(self, history: History, anchor_B: Tensor) -> tuple[History, Tensor]:
        """Return the history to encode and the position [B] whose state asks, for users whose last token is known."""
        ...

    def query(self, encoded: Encoded, anchor_BC: Tensor, valid_BC: Tensor | None = None) -> Tensor:
        """Return query vectors [B, C, D] from positions of histories, -1 before the first; [N, D] of the valid ones.

        With `valid_BC`, rows come in the order of `valid_BC.nonzero()`.
        """
        ...

    def questions(self, rows: UserRows, split: Split) -> UserRows:
        """Return users whose marks say what an evaluation on a split asks.

        What is known has a mark below the split, what is held out the split's own, what is neither one above it.
        """
        ...


@runtime_checkable
class ScoresUsers(Protocol):
    """A task that foretells something of users, at each of their tokens."""

    predicts: Literal["probability", "value"]
    positive_from: float | None

    def outcomes(self, batch: Batch, split: Split) -> Batch:
        """Return the tokens as targets; valid are those whose outcome is known first when the period of a split ends.

        The targets of `batch` are all events up to then.
        """
        ...

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the task's score of every target [B, C]."""
        ...

    def predict(self, logits: Tensor) -> Tensor:
        """Return what users read, in the shape of the logits."""
        ...

    def truth(self, targets: Targets) -> Tensor:
        """Return what predictions are measured against [B, C], NaN where a target does not count."""
        ...


@runtime_checkable
class ScoresItems(Protocol):
    """A task that foretells the demand of items from their vectors alone."""

    def foretold(self, vectors_ND: Tensor) -> Tensor:
        """Return the demand of items [N], in that of the mean item."""
        ...


@runtime_checkable
class ScoresPairs(Protocol):
    """A task that predicts something labelled of a (state, item) pair: a probability or a value."""

    label: str
    """The label that its predictions are measured against."""
    predicts: Literal["probability", "value"]
    """Whether `predict` gives the probability that the label is positive, or the label's value."""
    positive_from: float | None
    """Labels from here on count as positive: 1 for labels 0 and 1. None, for values only: nothing is positive."""

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the task's score of every target [B, C]."""
        ...

    def predict(self, logits: Tensor) -> Tensor:
        """Return what users read, in the shape of the logits."""
        ...

    def truth(self, targets: Targets) -> Tensor:
        """Return what predictions are measured against [B, C], NaN where a target does not count."""
        ...
