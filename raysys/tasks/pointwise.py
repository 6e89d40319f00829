"""What the tasks that score (state, item) pairs have in common: a view of the pair, a tower, an item's own level."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Batch, Targets
from raysys.model.dropout import DroppedReLU
from raysys.model.lookup import look_up
from raysys.model.recommender import Encoded
from raysys.tasks.task import Task, TaskContext, check_known, chosen_events


class PointwiseConfig(FrozenConfig):
    """What every point-wise task lets one choose."""

    label: str
    """Label of the dataset that is predicted."""
    events: tuple[str, ...] = ()
    """Events whose label counts; all with a known label when empty."""
    hidden: int = Field(32, ge=1)
    """Width of the tower's hidden layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the tower."""


class Pointwise(Task):
    """One number, or several, for each pair."""

    source = "pairs"
    reads_tokens = False
    Config: ClassVar[type[PointwiseConfig]]
    is_labelled: Tensor

    def __init__(self, config: PointwiseConfig, context: TaskContext, num_outputs: int = 1) -> None:
        super().__init__(config, context)
        self.label = config.label
        check_known("label", config.label, context.labels, context.name)
        self.register_buffer("is_labelled", chosen_events(config.events, context), persistent=False)
        self._chooses = bool(config.events)
        self._counted: tuple[Batch, bool, Tensor] | None = None
        self.tower = nn.Sequential(
            nn.Linear(context.shared_width, config.hidden),
            DroppedReLU(config.dropout),
            nn.Linear(config.hidden, num_outputs),
        )
        self.item_level = nn.Embedding(context.vocabulary_size, 1)
        nn.init.zeros_(self.item_level.weight)

    @property
    def reads_labels(self) -> Collection[str]:
        """Return its own label."""
        return (self.label,)

    @property
    def start_level(self) -> Tensor:
        """Where predictions begin: the biases of the last layer."""
        bias: Tensor = self.tower[-1].bias  # type: ignore[assignment]
        return bias

    def outputs(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the tower's numbers for the valid targets [N, num_outputs]."""
        items_N = encoded.in_vocabulary(targets.items_BC[targets.mask_BC])
        shared_NH = encoded.shared(targets).by_task[self.name]
        outputs: Tensor = self.tower(shared_NH) + look_up(items_N, self.item_level.weight)
        return outputs

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return one score per target [B, C]; 0 where there is none, and in training where no label is known."""
        asked = self.asked(encoded, targets)
        return self.spread(self.score(self.outputs(encoded, asked)), asked)

    def asked(self, encoded: Encoded, targets: Targets) -> Targets:
        """Return the targets that something is computed for: in training, those that a label is known of."""
        return encoded.labelled(targets) if self.training else targets

    def score(self, outputs: Tensor) -> Tensor:
        """Make one score [N] of the tower's numbers. By default there is but one."""
        return outputs.squeeze(-1)

    def spread(self, scores_N: Tensor, targets: Targets) -> Tensor:
        """Put the scores of the valid targets in their places [B, C]."""
        empty = torch.zeros(targets.mask_BC.shape, dtype=scores_N.dtype, device=scores_N.device)
        return empty.masked_scatter(targets.mask_BC, scores_N)

    def truth(self, targets: Targets) -> Tensor:
        """Return the label of the events whose label counts."""
        truth_BC = super().truth(targets)
        if not self._chooses:
            return truth_BC
        return truth_BC.masked_fill(~self.is_labelled[targets.events_BC], torch.nan)

    def known(self, view: Batch) -> Tensor:
        """Return the targets that are learned from, bool [B, C]: their label is known."""
        return self.truth(view.targets).isfinite()

    def count(self, view: Batch) -> Tensor:
        """Count the targets that are learned from."""
        return self._known_once(view).sum().float()

    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Add up the errors of the targets that are learned from."""
        return (self.errors(logits[self.name], view.targets) * self._known_once(view)).sum()

    def _known_once(self, view: Batch) -> Tensor:
        """Return `known` of a view, which a step asks for twice."""
        if self._counted is None or self._counted[0] is not view or self._counted[1] != self.training:
            self._counted = view, self.training, self.known(view)
        return self._counted[2]

    @abstractmethod
    def errors(self, logits_BC: Tensor, targets: Targets) -> Tensor:
        """Return the error of every target [B, C], finite; what stands where no label is known does not count."""
