"""Dropout (Srivastava et al., 2014), on a CPU several times as fast as torch's and with a quarter of its memory.

torch draws a number of its Mersenne twister for every element there, and keeps the mask in float32.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16  # a draw of 64 bits decides on four elements
_AT_A_TIME = 1 << 18  # elements whose draws exist at a time: they stay in the cache, and memory does not grow with them


class Dropout(nn.Module):
    """Zeroes elements in training with a chance, on a CPU rounded to 1/65536, and scales the others up."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with elements left out."""
        if not self.training or not self.chance:
            return x
        if _has_fast_torch(x):
            return F.dropout(x, self.chance)
        dropped: Tensor = _Dropout.apply(x, self.chance)  # type: ignore[no-untyped-call]
        return dropped


class DroppedReLU(Dropout):
    """ReLU and dropout at once: what comes out says what went in above 0 and stayed, so no mask is kept."""

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0) with elements left out."""
        if not self.training or not self.chance:
            return F.relu(x)
        if _has_fast_torch(x):
            return F.dropout(F.relu(x), self.chance)
        dropped: Tensor = _DroppedReLU.apply(x, self.chance)  # type: ignore[no-untyped-call]
        return dropped


def _has_fast_torch(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def draw_kept(shape: Sequence[int], chance: float) -> tuple[Tensor, float]:
    """Return which elements stay, u8 of 0 and 1 on the CPU, and what scales them up so that means stay.

    A function of the state of torch's generator; the chance of leaving one out is rounded to 1/65536.
    """
    size, left_out = math.prod(shape), min(round(chance * _LEVELS), _LEVELS - 1)
    generator = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))  # half the time of torch's twister
    kept_N = torch.empty(size, dtype=torch.uint8)  # u8, because products with bool are slower
    kept = kept_N.numpy().view(np.bool_)
    for at in range(0, size, _AT_A_TIME):
        part = kept[at : at + _AT_A_TIME]
        draws = generator.random_raw(-(-len(part) // 4)).view(np.int16)[: len(part)]
        np.greater_equal(draws, left_out - _LEVELS // 2, out=part)  # torch takes ten times as long
    return kept_N.view(shape), _LEVELS / (_LEVELS - left_out)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, chance: float) -> Tensor:
        kept, ctx.scale = draw_kept(x.shape, chance)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grads[0] * kept).mul_(ctx.scale), None


class _DroppedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, chance: float) -> Tensor:
        kept, ctx.scale = draw_kept(x.shape, chance)
        out = torch.relu(x).mul_(kept).mul_(ctx.scale)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grads[0], out, 0.0).mul_(ctx.scale), None
