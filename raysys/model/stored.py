"""Weights in fewer bytes than they are computed with: bfloat16, or eight bits and a scale for every row.

They are turned back into float32 when they are read. Products of bfloat16, or of activations in eight bits, were slower
on every CPU without instructions for them, by far (docs/export.md), so that what is gained is size alone.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

_SCALE = ".int8_scale"
"""Behind the name of a tensor in eight bits: the name of its scales."""


def as_bf16(state: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return weights with the named ones in bfloat16."""
    return {name: tensor.bfloat16() if name in names else tensor for name, tensor in state.items()}


def as_int8(state: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return weights with the named ones in eight bits: symmetric, each row (the last dimension) with its own scale."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name not in names:
            found[name] = tensor
            continue
        scale = tensor.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        found[name] = (tensor / scale).round().to(torch.int8)
        found[name + _SCALE] = scale
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a run, all in the types that they are computed in."""
    stored, found = load_file(path), {}
    for name, tensor in stored.items():
        if name + _SCALE in stored:
            found[name] = tensor.float() * stored[name + _SCALE]
        elif not name.endswith(_SCALE):
            found[name] = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return found
