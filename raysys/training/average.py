"""A running average of the weights: on small logs it is worth more than any schedule (Polyak and Juditsky, 1992)."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential average of a module's parameters after each step; with decay 0 the weights themselves."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(module.named_parameters())
        self._mean = {name: p.detach().clone() for name, p in self._live.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step (from 0); early on the average is short, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, mean in self._mean.items():
            mean.lerp_(self._live[name], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights inside the block."""
        saved = {name: self._live[name].detach().clone() for name in self._mean}
        self._put(self._mean)
        try:
            yield
        finally:
            self._put(saved)

    def state(self) -> dict[str, Tensor]:
        """Return the averages, for a checkpoint."""
        return self._mean

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages of a checkpoint."""
        for name, mean in self._mean.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._live[name].copy_(value)
