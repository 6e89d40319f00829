"""Learned variances: a noisy task weighs less."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.weighting.weighting import Combined, Weighting

_SMALLEST = 1e-6  # loss that a variance may start from


class UncertaintyWeighting(Weighting):
    """total = sum of exp(-s) / 2 x loss + s / 2, with a learned s = log variance for each task.

    Kendall, Gal and Cipolla (CVPR 2018, arXiv 1705.07115), equation 7, used for every loss; in equation 10 the factor
    of a classification is twice as large, which a variance twice as large undoes. For a given loss the best s is its
    logarithm. So s starts there, at the task's first loss: Adam moves it by about the learning rate a step, and from 0
    it would be on its way for thousands of steps. A task without a valid target in a step leaves its s alone.
    """

    class Config(FrozenConfig):
        """No settings: the log variances are trained with the model."""

        kind: Literal["uncertainty"] = "uncertainty"

    begun_T: Tensor

    def __init__(self, config: Config, tasks: tuple[str, ...]) -> None:
        super().__init__(config, tasks)
        self.log_variances_T = nn.Parameter(torch.zeros(len(tasks)))
        self.register_buffer("begun_T", torch.zeros(len(tasks), dtype=torch.bool))

    def combine(self, losses_T: Tensor, gram: Callable[[], Tensor]) -> Combined:
        """Return the negative log likelihood of all tasks."""
        present_T = losses_T.detach() > 0
        self._begin(losses_T.detach(), present_T)
        weights_T = 0.5 * torch.exp(-self.log_variances_T)
        total = (weights_T * losses_T + 0.5 * self.log_variances_T * present_T).sum()
        return Combined(total, weights_T.detach())

    @torch.no_grad()
    def _begin(self, losses_T: Tensor, present_T: Tensor) -> None:
        starts_T = losses_T.clamp(min=_SMALLEST).log()
        self.log_variances_T.copy_(torch.where(present_T & ~self.begun_T, starts_T, self.log_variances_T))
        self.begun_T.logical_or_(present_T)
