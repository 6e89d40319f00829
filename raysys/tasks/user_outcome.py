"""What the tasks about users have in common: how many events follow within a time, foretold by a state."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Batch, Targets
from raysys.data.dataset import Dataset
from raysys.data.periods import period_ends
from raysys.data.schema import Split
from raysys.data.times import Duration
from raysys.errors import UserError
from raysys.model.dropout import DroppedReLU
from raysys.model.recommender import Encoded
from raysys.tasks.task import Task, TaskContext, chosen_events

_NEVER = -(1 << 62)
AHEAD = "ahead"
"""Name of the label of a view: how many events follow a token within the horizon; NaN where that is not known."""


class UserOutcomeConfig(FrozenConfig):
    """What every task about users lets one choose."""

    horizon: Duration = Field("7d", validate_default=True)
    """How far ahead is looked, from the time of a user's token."""
    events: tuple[str, ...] = ()
    """Events that count; all when empty."""
    hidden: int = Field(32, ge=1)
    """Width of the tower's hidden layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the tower."""


class UserOutcome(Task):
    """A number of a user, at each of his tokens. Horizons that reach beyond what training may know are left out.

    What is unknown is so whatever came of it: an event that was seen early says no more than one that was not.
    """

    source = "users"
    reads_newest = True
    Config: ClassVar[type[UserOutcomeConfig]]
    counts: Tensor

    def __init__(self, config: UserOutcomeConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        if not context.has_times:
            raise UserError(f"tasks.{context.name}: the events have no times, so nothing happens within a horizon")
        self.horizon = config.horizon
        self.register_buffer("counts", chosen_events(config.events, context), persistent=False)
        self.ends: tuple[int, int, int] | None = None
        self.tower = nn.Sequential(
            nn.Linear(context.width, config.hidden), DroppedReLU(config.dropout), nn.Linear(config.hidden, 1)
        )

    @property
    def reads_labels(self) -> Collection[str]:
        """None: what is foretold is counted."""
        return ()

    def observe(self, dataset: Dataset) -> None:
        """Take the ends of the periods."""
        self.ends = period_ends(dataset)

    def prepare(self, batch: Batch) -> Batch:
        """Return the tokens as targets, each at its own position, with what followed within training."""
        return self.outcomes(batch, Split.TRAIN)

    def outcomes(self, batch: Batch, split: Split) -> Batch:
        """Return the tokens as targets with what followed each until the end of a split.

        For a split after training these are the horizons that it closes; those closed earlier are masked. Where periods
        have no common end, a horizon of training is known when the user's events reach beyond it, and none later.
        """
        history, targets = batch.history, batch.targets
        counted_BC = targets.mask_BC & self.counts[targets.events_BC]
        until_BL = history.times_BL + self.horizon
        ahead_BL = _following(targets.times_BC, counted_BC, history.times_BL, until_BL)
        newest_B1 = F.pad(torch.where(targets.mask_BC, targets.times_BC, _NEVER), (0, 1), value=_NEVER).amax(1, True)
        known_BL = until_BL <= newest_B1
        if self.ends is None:
            known_BL = known_BL & (split == Split.TRAIN)  # nothing tells what a later period closed
        else:
            known_BL = (known_BL | _all_there(targets).unsqueeze(1)) & (until_BL <= self.ends[split])
            if split > Split.TRAIN:
                known_BL = known_BL & (until_BL > self.ends[split - 1])
        known_BL = known_BL & history.mask_BL
        places_L = torch.arange(history.items_BL.shape[1], device=history.items_BL.device)
        view = Targets(
            items_BC=history.items_BL,
            anchor_BC=places_L.expand_as(history.items_BL),
            events_BC=history.events_BL,
            times_BC=history.times_BL,
            mask_BC=known_BL,
            labels={AHEAD: ahead_BL.masked_fill(~known_BL, torch.nan)},
        )
        return replace(batch, targets=view)

    def count(self, view: Batch) -> Tensor:
        """Count the tokens whose horizon is known."""
        return view.targets.mask_BC.sum().float()

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the tower's number for every token [B, C]."""
        scores: Tensor = self.tower(encoded.state_before(targets.anchor_BC)).squeeze(-1)
        return scores

    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Add up the errors of the tokens whose horizon is known."""
        valid_BC = view.targets.mask_BC
        scores_N = self.tower(encoded.state_before(view.targets.anchor_BC, valid_BC)).squeeze(-1)
        return self.errors(scores_N, self.truth(view.targets)[valid_BC]).sum()

    @abstractmethod
    def errors(self, scores_N: Tensor, truth_N: Tensor) -> Tensor:
        """Return the error of every token [N]."""


def _all_there(targets: Targets) -> Tensor:
    """Return whether every event of a user is among the targets, bool [B]."""
    if targets.complete_B is None:
        return torch.ones(len(targets.mask_BC), dtype=torch.bool, device=targets.mask_BC.device)
    return targets.complete_B


def _following(times_BC: Tensor, counted_BC: Tensor, after_BL: Tensor, until_BL: Tensor) -> Tensor:
    """Return how many counted events lie in (after, until], f32 [B, L]; times ascend within a user."""
    never = torch.iinfo(torch.int64).max
    padded_BC = torch.where(counted_BC, times_BC, never).sort(dim=1).values
    upper, lower = (torch.searchsorted(padded_BC, edge.contiguous(), right=True) for edge in (until_BL, after_BL))
    return (upper - lower).float()
