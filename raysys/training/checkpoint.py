"""Checkpoints without pickle: weights and optimizer state as safetensors, position as JSON; whole or absent.

The learning rate, the order of samples and every random draw are functions of the step, so the position is all the
random and schedule state there is.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raysys.training.average import WeightAverage

_KEPT = 2


@dataclass
class Position:
    """How far a run has come: everything of the loop's state that is not a tensor."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_metric: float | None = None
    best_epoch: int = -1
    stale: int = 0
    """Validations since the last improvement."""
    stopped: bool = False
    loss_sums: dict[str, float] = field(default_factory=dict)
    """Sums of the step losses of the epoch so far."""
    seconds: float = 0.0
    """Training time spent before this position."""


def save_checkpoint(
    directory: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    position: Position,
) -> None:
    """Write checkpoints/step-N beside the others, then drop all but the newest two."""
    final = directory / f"step-{position.step:09d}"
    partial = directory / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(plain_state(module), partial / "model.safetensors")
    save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
    save_file(average.state(), partial / "average.safetensors")
    (partial / "position.json").write_text(json.dumps(asdict(position)))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in checkpoints(directory)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage
) -> Position:
    """Restore weights, their average and optimizer state in place and return the position."""
    module.load_state_dict(load_file(path / "model.safetensors"))
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in load_file(path / "optimizer.safetensors").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    average.load(load_file(path / "average.safetensors"))
    return read_position(path)


def read_position(path: Path) -> Position:
    """Return how far a checkpoint has come."""
    return Position(**json.loads((path / "position.json").read_text()))


def checkpoints(directory: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    return sorted(directory.glob("step-*")) if directory.is_dir() else []


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    save_file(plain_state(module), partial)
    os.replace(partial, path)


def plain_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights as contiguous CPU tensors, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": tensor.detach().cpu().contiguous()
        for index, values in state.items()
        for name, tensor in values.items()
        if tensor is not None  # a momentum that is still to come
    }
