"""GradNorm: the weighted task gradients get like norms, larger ones where a task learns slowly."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.weighting.weighting import Combined, Weighting


class GradNormWeighting(Weighting):
    """Moves weights until weight x gradient norm = mean norm x (relative rate)^alpha for every task.

    Chen, Badrinarayanan, Lee and Rabinovich (ICML 2018, arXiv 1711.02257), equations 1 and 2; the rate of a task is its
    loss over its first one, and relative to the mean over tasks. Norms are those at the shared representation, the
    roots of `gram`'s diagonal, so nothing is differentiated twice. The paper descends along |weight x norm - target|
    with an optimizer of its own; here the logarithms of the weights move against the logarithm of that ratio, capped
    at 1: the same balance, and a step is a share of the weight whatever the scale of the gradients. Weights sum to the
    number of tasks. A task without a gradient in a step keeps its weight.
    """

    class Config(FrozenConfig):
        """How strongly slow tasks are helped, and how fast."""

        kind: Literal["gradnorm"] = "gradnorm"
        alpha: NonNegativeFloat = 1.5
        """0 makes all norms equal; more gives slow tasks more."""
        learning_rate: PositiveFloat = 0.025
        """Of the logarithms of the weights."""

    weights_T: Tensor
    first_T: Tensor

    def __init__(self, config: Config, tasks: tuple[str, ...]) -> None:
        super().__init__(config, tasks)
        self.config = config
        self.register_buffer("weights_T", torch.ones(len(tasks)))
        self.register_buffer("first_T", torch.zeros(len(tasks)))  # loss of the first step with a target; 0: not yet

    def combine(self, losses_T: Tensor, gram: Callable[[], Tensor]) -> Combined:
        """Add the losses up, then move the weights for the next step."""
        weights_T = self.weights_T.clone()
        norms_T = gram().detach().diagonal().double().clamp(min=0).sqrt()
        self._learn(losses_T.detach().double(), norms_T)
        return Combined((losses_T * weights_T).sum(), weights_T)

    def _learn(self, losses_T: Tensor, norms_T: Tensor) -> None:
        present_T = (norms_T > 0) & (losses_T > 0)
        self.first_T.copy_(torch.where(present_T & (self.first_T == 0), losses_T, self.first_T))
        rates_T = losses_T / torch.where(present_T, self.first_T, 1.0)
        sizes_T = self.weights_T * norms_T
        targets_T = _mean(sizes_T, present_T) * (rates_T / _mean(rates_T, present_T)) ** self.config.alpha
        ratios_T = torch.where(present_T, sizes_T, 1.0) / torch.where(present_T, targets_T, 1.0)
        self.weights_T.mul_(torch.exp(-self.config.learning_rate * ratios_T.log().clamp(-1, 1)))
        self.weights_T.mul_(len(self.tasks) / self.weights_T.sum())


def _mean(values_T: Tensor, present_T: Tensor) -> Tensor:
    return (values_T * present_T).sum() / present_T.sum().clamp(min=1)
