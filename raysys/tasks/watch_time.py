"""Watch time: how long somebody will watch, by the chances of watching on past some moments.

Moments are quantiles of training. For each the task learns p(time > moment), and the expected time is restored from
these chances as CREAD does (Sun et al., 2024, arXiv 2401.07521, section 3): sum over moments of the chance of getting
past one x the stretch up to the next. A mean alone would be ruled by the few who watch longest.

A video that was watched to its end is a censored time: with `duration`, moments beyond it say nothing about who would
have watched on, so they are left out of what is learned.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raysys.data.batches import Batch, Targets
from raysys.data.dataset import Dataset
from raysys.data.quantiles import training_quantiles
from raysys.errors import UserError, nearest
from raysys.model.fields import NUM_QUANTILES
from raysys.model.recommender import Encoded
from raysys.tasks.pointwise import Pointwise, PointwiseConfig
from raysys.tasks.task import TaskContext


class WatchTime(Pointwise):
    """Survival over moments; predictions are expected times in the unit of the label."""

    predicts = "value"
    positive_from = None
    moments_M: Tensor

    class Config(PointwiseConfig):
        """The label, and where the length of what is watched stands."""

        kind: Literal["watch_time"] = "watch_time"
        label: str = "watch_time"
        """Label of the dataset that is predicted: a time of 0 or more."""
        duration: str | None = None
        """Number of the context that says how long the item lasts, in the unit of the label; null: nothing is
        censored."""

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context, NUM_QUANTILES + 1)
        self.duration = config.duration
        if config.duration is not None and config.duration not in context.numbers:
            raise UserError(
                f"tasks.{context.name}.duration: no number {config.duration!r} in the context"
                f"{nearest(config.duration, context.numbers)} (there are: {', '.join(context.numbers) or 'none'})"
            )
        self.register_buffer("moments_M", torch.zeros(NUM_QUANTILES + 1))
        self.register_buffer("last_stretch", torch.zeros(()))

    def observe(self, dataset: Dataset) -> None:
        """Take the moments: 0, and the quantiles of training. The last stretch is as long as the one before."""
        quantiles = torch.from_numpy(training_quantiles(dataset, NUM_QUANTILES).labels[self.label])
        self.moments_M[1:] = quantiles.clamp(min=0)
        self.get_buffer("last_stretch").copy_(self.moments_M[-1] - self.moments_M[-2])

    def score(self, outputs: Tensor) -> Tensor:
        """Return the expected time [N]."""
        stretches_M = torch.cat([self.moments_M.diff(), self.get_buffer("last_stretch").reshape(1)])
        return (outputs.sigmoid() * stretches_M).sum(-1)

    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Add up the mean binary cross-entropy over the moments that say something about each target."""
        targets = self.asked(encoded, view.targets)
        place = targets.mask_BC
        past_NM, told_NM = self._moments(targets.labels[self.label][place], self._durations(targets))
        errors_NM = F.binary_cross_entropy_with_logits(self.outputs(encoded, targets), past_NM, reduction="none")
        errors_N = (errors_NM * told_NM).sum(-1) / told_NM.sum(-1).clamp(min=1)
        return (errors_N * self._known_once(view)[place]).sum()

    def errors(self, logits_BC: Tensor, targets: Targets) -> Tensor:
        """Absolute error of the expected time."""
        return (logits_BC - targets.labels[self.label].nan_to_num()).abs()

    def _durations(self, targets: Targets) -> Tensor | None:
        found = targets.context.numbers.get(self.duration or "")
        return None if found is None else found[targets.mask_BC]

    def _moments(self, times_N: Tensor, durations_N: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return which moments [N, M] were got past, and which of them say something."""
        times_N1 = times_N.nan_to_num().unsqueeze(1)
        past_NM = (times_N1 > self.moments_M).float()
        if durations_N is None:
            return past_NM, torch.ones_like(past_NM)
        ended_N1 = (times_N >= durations_N).unsqueeze(1)  # an unknown duration ends nothing
        return past_NM, (~ended_N1 | (self.moments_M < times_N1)).float()
