"""Dynamic weight average: a task whose loss falls slowly from epoch to epoch weighs more."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.weighting.weighting import Combined, Weighting


class DwaWeighting(Weighting):
    """weight = T x softmax(last epoch's loss / the loss of the epoch before, over the temperature).

    Liu, Johns and Davison (CVPR 2019, arXiv 1803.10704), equation 7; the first two epochs weigh all tasks 1.
    """

    class Config(FrozenConfig):
        """How sharply weights follow the rates at which losses fall."""

        kind: Literal["dwa"] = "dwa"
        temperature: PositiveFloat = 2.0
        """Higher temperatures give more equal weights."""

    weights_T: Tensor
    losses_T: Tensor

    def __init__(self, config: Config, tasks: tuple[str, ...]) -> None:
        super().__init__(config, tasks)
        self.temperature = config.temperature
        self.register_buffer("weights_T", torch.ones(len(tasks)))
        self.register_buffer("losses_T", torch.zeros(len(tasks)))  # of the last epoch; 0: not known

    def combine(self, losses_T: Tensor, gram: Callable[[], Tensor]) -> Combined:
        """Add the losses up with the weights of the epoch."""
        weights_T = self.weights_T.clone()
        return Combined((losses_T * weights_T).sum(), weights_T)

    def end_epoch(self, losses_T: Tensor) -> None:
        """Weigh the next epoch by how losses fell in this one."""
        losses_T = losses_T.to(self.losses_T)
        known_T = self.losses_T > 0
        rates_T = torch.where(known_T, losses_T / torch.where(known_T, self.losses_T, 1.0), 1.0)
        self.weights_T.copy_(len(self.tasks) * torch.softmax(rates_T / self.temperature, dim=0))
        self.losses_T.copy_(losses_T)
