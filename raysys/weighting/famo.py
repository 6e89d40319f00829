"""FAMO: all losses should fall at the same rate; seen from the losses alone, in constant time."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.weighting.weighting import Combined, Weighting

_SMALLEST = 1e-8
_BETA1, _BETA2 = 0.9, 0.999


class FamoWeighting(Weighting):
    """weight of task i = c z_i / loss_i, with z = softmax(logits) and c such that the weights sum to 1.

    Liu, Feng, Stone and Liu (NeurIPS 2023, arXiv 2306.03792), algorithm 1. A step of Adam, as in the authors' code,
    moves the logits against the improvement log(loss before) - log(loss after) of the step that was taken. The paper
    asks for the loss of the same batch after the step, which is one more forward pass. Here the next step's losses
    stand in for it: no extra pass, and what batches differ by cancels out over steps, because one step's "after" is
    the next one's "before". But it is noise beside the improvement of one step, so weights move more slowly.
    """

    class Config(FrozenConfig):
        """How fast the logits of the weights move."""

        kind: Literal["famo"] = "famo"
        learning_rate: PositiveFloat = 0.025
        """Of the logits' Adam."""
        decay: NonNegativeFloat = 1e-3
        """Pulls the logits to 0, that is to equal shares."""

    logits_T: Tensor
    mean_T: Tensor
    square_T: Tensor
    steps: Tensor
    logs_T: Tensor
    known_T: Tensor

    def __init__(self, config: Config, tasks: tuple[str, ...]) -> None:
        super().__init__(config, tasks)
        self.config = config
        for name in ("logits_T", "mean_T", "square_T", "logs_T"):  # logs_T: of the losses last seen
            self.register_buffer(name, torch.zeros(len(tasks)))
        self.register_buffer("known_T", torch.zeros(len(tasks), dtype=torch.bool))
        self.register_buffer("steps", torch.zeros(()))

    def combine(self, losses_T: Tensor, gram: Callable[[], Tensor]) -> Combined:
        """Learn from what the last step did, then weigh this one; a task without a target keeps its logit."""
        now_T = losses_T.detach().float()
        present_T = now_T > 0
        logs_T = now_T.clamp(min=_SMALLEST).log()
        self._learn(torch.where(present_T & self.known_T, self.logs_T - logs_T, 0.0))
        self.logs_T.copy_(torch.where(present_T, logs_T, self.logs_T))
        self.known_T.logical_or_(present_T)
        parts_T = torch.softmax(self.logits_T, dim=0) * present_T / now_T.clamp(min=_SMALLEST)
        weights_T = parts_T / parts_T.sum().clamp(min=_SMALLEST)
        return Combined((losses_T * weights_T).sum(), weights_T)

    def _learn(self, improvement_T: Tensor) -> None:
        shares_T = torch.softmax(self.logits_T, dim=0)
        gradient_T = shares_T * (improvement_T - (shares_T * improvement_T).sum()) + self.config.decay * self.logits_T
        self.steps.add_(1)
        self.mean_T.lerp_(gradient_T, 1 - _BETA1)
        self.square_T.lerp_(gradient_T.square(), 1 - _BETA2)
        mean_T, square_T = self.mean_T / (1 - _BETA1**self.steps), self.square_T / (1 - _BETA2**self.steps)
        self.logits_T.sub_(self.config.learning_rate * mean_T / (square_T.sqrt() + 1e-8))
