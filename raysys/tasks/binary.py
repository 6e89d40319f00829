"""Yes or no of a pair: a click, a like, a follow, whatever label says 1 or 0."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raysys.data.batches import Batch, Targets
from raysys.tasks.downsampling import undo_downsampling
from raysys.tasks.draws import draw_uniform
from raysys.tasks.pointwise import Pointwise, PointwiseConfig
from raysys.tasks.task import TaskContext


class BinaryConfig(PointwiseConfig):
    """What tasks of a probability let one choose."""

    positive_from: float = 1.0
    """Labels from here on are a yes."""
    keep_negatives: float = Field(1.0, gt=0, le=1)
    """Share of the noes that training sees; predictions are corrected for those left out."""


class Binary(Pointwise):
    """Logistic regression on top of the tower; predictions are probabilities."""

    predicts = "probability"

    class Config(BinaryConfig):
        """A label of 0 and 1."""

        kind: Literal["binary"] = "binary"

    def __init__(self, config: BinaryConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.positive_from, self.keep_negatives = config.positive_from, config.keep_negatives
        mean = min(max(context.label_means[config.label], 1e-4), 1 - 1e-4)  # of labels 0 and 1; a start, no more
        torch.nn.init.constant_(self.start_level, math.log(mean / (1 - mean)))

    def known(self, view: Batch) -> Tensor:
        """Return the targets that are learned from: yes, and a share of no, drawn by (step, user, place)."""
        known_BC = super().known(view)
        if self.keep_negatives == 1 or not self.training:
            return known_BC
        rows_N, places_N = known_BC.nonzero(as_tuple=True)
        drawn_N = draw_uniform(view.key, view.history.users_B[rows_N], places_N, 1, NEGATIVES_KEPT).squeeze(-1)
        kept_BC = torch.zeros_like(known_BC).masked_scatter(known_BC, drawn_N < self.keep_negatives)
        return known_BC & (kept_BC | self.yes(view.targets))

    def yes(self, targets: Targets) -> Tensor:
        """Return which targets are a yes, bool [B, C]."""
        return self.truth(targets) >= self.positive_from

    def errors(self, logits_BC: Tensor, targets: Targets) -> Tensor:
        """Binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(logits_BC, self.yes(targets).to(logits_BC.dtype), reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """Return probabilities, as if no negative had been left out."""
        return undo_downsampling(logits.sigmoid(), self.keep_negatives)


NEGATIVES_KEPT = 7
"""Stream of the draws, apart from those of the retrieval losses."""


class Click(Binary):
    """Whether what is shown is clicked."""

    class Config(BinaryConfig):
        """The label `click`."""

        kind: Literal["click"] = "click"
        label: str = "click"
