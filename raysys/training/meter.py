"""Sums of the losses of an epoch's steps, added up on the device: reading them there would hold up a GPU."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_READ_EVERY = 50  # steps, on a GPU; on a CPU the values are at hand


class LossMeter:
    """Losses of one epoch, by name: `loss`, and `loss/TASK` for every task."""

    def __init__(self, tasks: Iterable[str], device: torch.device) -> None:
        self.names = ("loss", *(f"loss/{task}" for task in tasks))
        self.every = _READ_EVERY if device.type == "cuda" else 1
        """Steps between two looks at the values."""
        self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)

    def add(self, losses: Tensor) -> None:
        """Take in a step's losses, f64 in the order of `names`."""
        self._sums += losses

    def sums(self, step: int) -> dict[str, float]:
        """Return the sums so far, for instance before a checkpoint after `step` steps of the run.

        Raises:
            FloatingPointError: a loss was no finite number: then no sum is from there on.
        """
        sums = dict(zip(self.names, self._sums.tolist(), strict=True))
        if not math.isfinite(sums["loss"]):
            raise FloatingPointError(f"the loss is {sums['loss']} at step {step}; try a lower learning rate")
        return sums

    def start(self, sums: Mapping[str, float]) -> None:
        """Begin an epoch with the sums of the part of it that is done; none at its very start."""
        given = [sums.get(name, 0.0) for name in self.names]
        self._sums.copy_(torch.tensor(given, dtype=torch.float64))
