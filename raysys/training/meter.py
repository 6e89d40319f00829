"""Sums over an epoch's steps, added up on the device: reading them there would hold up a GPU."""

import itertools
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

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


class BalanceMeter(nn.Module):
    """How an epoch's steps weighed the tasks (`weight/TASK`), and where their gradients pointed (`cosine/A|B`).

    The sums are buffers of what learns: checkpoints hold them, so a resumed run finds the same means.
    """

    weights_T: Tensor
    steps: Tensor
    cosines_TT: Tensor
    counts_TT: Tensor

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks, size = tasks, len(tasks)
        for name, shape in {
            "weights_T": (size,),
            "steps": (),
            "cosines_TT": (size, size),
            "counts_TT": (size, size),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def add_weights(self, weights_T: Tensor) -> None:
        """Take in the weights of a step."""
        self.weights_T += weights_T
        self.steps += 1

    def add_gram(self, gram_TT: Tensor) -> None:
        """Take in the inner products of the task gradients of a step; without a gradient there is no cosine."""
        gram_TT = gram_TT.double()
        norms_T = gram_TT.diagonal().clamp(min=0).sqrt()
        sizes_TT = norms_T.unsqueeze(1) * norms_T
        known_TT = sizes_TT > 0
        self.cosines_TT += torch.where(known_TT, gram_TT / torch.where(known_TT, sizes_TT, 1.0), 0.0)
        self.counts_TT += known_TT

    def take(self) -> dict[str, float]:
        """Return the means and begin again; a pair of tasks that never had a gradient together is left out."""
        means = dict(
            zip((f"weight/{task}" for task in self.tasks), (self.weights_T / self.steps).tolist(), strict=True)
        )
        cosines, counts = self.cosines_TT.tolist(), self.counts_TT.tolist()
        for first, second in itertools.combinations(range(len(self.tasks)), 2):
            if counts[first][second]:
                name = f"cosine/{self.tasks[first]}|{self.tasks[second]}"
                means[name] = cosines[first][second] / counts[first][second]
        for buffer in self.buffers():
            buffer.zero_()
        return means
