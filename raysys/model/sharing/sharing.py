"""The contract of a sharing: what is told of pairs becomes one vector per pair and task.

Legend of shapes: N pairs, E width of what is told, H width of what a tower gets, X experts.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.model.dropout import DroppedReLU
from raysys.model.told import Told


class SharingConfig(FrozenConfig):
    """What all sharings have in common."""

    hidden: int = Field(64, ge=1)
    """H: width of what every task's tower gets."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the experts. What pairs need is far less than what sparse histories need."""


@dataclass(frozen=True)
class SharingContext:
    """What a sharing may know of the model around it."""

    width: int
    """E: width of what is told of a pair."""
    tasks: tuple[str, ...]
    """Point-wise tasks, in the order of the config."""


@dataclass(frozen=True)
class Shared:
    """What the towers get, and how much each task listened to each expert."""

    by_task: Mapping[str, Tensor]  # [N, H]
    gates: Mapping[str, Tensor] = field(default_factory=dict)  # [N, X], rows add up to 1; none without experts


class Sharing(nn.Module):
    """Gives each point-wise task its own view of a pair."""

    Config: ClassVar[type[SharingConfig]]
    own_fields: ClassVar[bool] = False
    """Whether every task embeds the fields for itself too."""

    @abstractmethod
    def __init__(self, config: SharingConfig, context: SharingContext) -> None:
        """Build the layers."""
        super().__init__()

    @abstractmethod
    def forward(self, told: Mapping[str, Told]) -> Shared:
        """Return a view [N, H] for every task.

        `told` holds rows [N, E] for all tasks under the empty name and, with `own_fields`, for each under its own.
        """

    def expert_names(self) -> dict[str, tuple[str, ...]]:
        """Return for each task the names of the experts it mixes, in the order of its gate; none without gates."""
        return {}


def shared_names(count: int) -> tuple[str, ...]:
    """Return the names of experts of all tasks."""
    return tuple(f"shared {number}" for number in range(1, count + 1))


def expert(width: int, config: SharingConfig) -> nn.Module:
    """Return one layer with its activation: [N, width] -> [N, H]."""
    return nn.Sequential(nn.Linear(width, config.hidden), DroppedReLU(config.dropout))


def run_experts(experts: Iterable[nn.Module], gates: Iterable[nn.Linear], told: Told) -> tuple[Tensor, Tensor]:
    """Return what experts of one width make of rows [N, X, H], and what gates say of them, side by side [N, G].

    One product for all of them.
    """
    layers: list[Any] = [tuple(one) for one in experts]  # type: ignore[arg-type]
    linears = [*(layer for layer, _ in layers), *gates]
    weights, biases = (torch.cat([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))
    (first, activation), count = layers[0], len(layers)
    width = count * first.out_features
    out_NXH, logits_NG = torch.split(told.through(weights, biases), [width, len(weights) - width], dim=-1)
    return activation(out_NXH).view(len(out_NXH), count, first.out_features), logits_NG


def run_own_experts(
    own: nn.ModuleDict, gates: nn.ModuleDict, told: Mapping[str, Told]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what the own experts of each task make of its rows [N, X, H], and the shares of its gate [N, G]."""
    found: dict[str, Tensor] = {}
    shares: dict[str, Tensor] = {}
    for task, experts in own.items():
        found[task], logits_NG = run_experts(experts, [gates[task]], told[task])  # type: ignore[arg-type, list-item]
        shares[task] = gate_shares(logits_NG)
    return found, shares


def gate_shares(logits_NGX: Tensor) -> Tensor:
    """Return the softmax over few experts [*, X], laid out expert by expert: torch vectorises over what is adjacent."""
    count = logits_NGX.shape[-1]
    return logits_NGX.reshape(-1, count).T.softmax(0).T.view(logits_NGX.shape)
