"""CGC and PLE: experts of all and experts of one task (Tang et al., 2020, RecSys)."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.model.sharing.mmoe import mixed
from raysys.model.sharing.sharing import (
    Shared,
    Sharing,
    SharingConfig,
    SharingContext,
    expert,
    gate_shares,
    run_experts,
    run_own_experts,
    shared_names,
)
from raysys.model.told import Told


class PLE(Sharing):
    """Each task mixes shared experts with its own and never sees another's, so that tasks spoil each other less.

    One level is CGC (customised gate control, equations 1 to 4); further ones (progressive layered extraction) take
    the mixes of the level below, the shared experts a mix of all.
    """

    class Config(SharingConfig):
        """Levels and experts."""

        kind: Literal["ple"] = "ple"
        num_levels: int = Field(1, ge=1)
        num_shared: int = Field(2, ge=1)
        """Experts of all tasks, in each level."""
        num_own: int = Field(1, ge=1)
        """Experts of every task alone, in each level."""

    def __init__(self, config: Config, context: SharingContext) -> None:
        super().__init__(config, context)
        widths = [context.width] + [config.hidden] * (config.num_levels - 1)
        last, self.tasks = len(widths) - 1, context.tasks
        own = tuple(f"own {number}" for number in range(1, config.num_own + 1))
        self.names = (*shared_names(config.num_shared), *own)
        self.levels = nn.ModuleList(_Level(config, context.tasks, width, at < last) for at, width in enumerate(widths))

    def forward(self, told: Mapping[str, Told]) -> Shared:
        """Go through the levels; the gates are those of the last one."""
        inputs, views, gates = dict.fromkeys(("", *self.tasks), told[""]), {}, {}
        for level in self.levels:
            views, gates = level(inputs)
            inputs = {name: Told(view) for name, view in views.items()}
        return Shared({task: view for task, view in views.items() if task}, gates)

    def expert_names(self) -> dict[str, tuple[str, ...]]:
        """Name the shared experts and the task's own."""
        return dict.fromkeys(self.tasks, self.names)


class _Level(nn.Module):
    """The experts and gates of one level; the empty name stands for what all share."""

    def __init__(self, config: PLE.Config, tasks: tuple[str, ...], width: int, mixes_all: bool) -> None:
        super().__init__()
        self.tasks = tasks
        self.shared = nn.ModuleList(expert(width, config) for _ in range(config.num_shared))
        self.own = nn.ModuleDict(
            {task: nn.ModuleList(expert(width, config) for _ in range(config.num_own)) for task in tasks}
        )
        self.gates = nn.ModuleDict({task: nn.Linear(width, config.num_shared + config.num_own) for task in tasks})
        everyone = config.num_shared + len(tasks) * config.num_own
        self.gate_of_all = nn.Linear(width, everyone) if mixes_all else None

    def forward(self, seen: dict[str, Told]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        of_all = [] if self.gate_of_all is None else [self.gate_of_all]
        shared_NXH, logits_of_all = run_experts(self.shared, of_all, seen[""])
        own, gates = run_own_experts(self.own, self.gates, seen)
        out = {task: mixed(gates[task], torch.cat([shared_NXH, own[task]], dim=1)) for task in self.tasks}
        if of_all:
            out[""] = mixed(gate_shares(logits_of_all), torch.cat([shared_NXH, *own.values()], dim=1))
        return out, gates
