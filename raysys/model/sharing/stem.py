"""STEM: fields and experts of all tasks and of each alone (Su et al., 2024, AAAI, arXiv 2308.13537)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from raysys.model.sharing.mmoe import mixed
from raysys.model.sharing.sharing import (
    Shared,
    Sharing,
    SharingConfig,
    SharingContext,
    expert,
    run_experts,
    run_own_experts,
    shared_names,
)
from raysys.model.told import Told


class STEM(Sharing):
    """Each task embeds the fields anew beside the shared embedding, so that users it sees differently can lie apart.

    A task listens to the experts of all tasks, but teaches only the shared ones and its own (the paper's all forward,
    task-specific backward gating): the gradient does not reach the others'.
    """

    own_fields: ClassVar[bool] = True

    class Config(SharingConfig):
        """Number of experts."""

        kind: Literal["stem"] = "stem"
        num_shared: int = Field(2, ge=1)
        """Experts of all tasks."""
        num_own: int = Field(1, ge=1)
        """Experts of every task alone."""

    def __init__(self, config: Config, context: SharingContext) -> None:
        super().__init__(config, context)
        self.tasks = context.tasks
        numbers = range(1, config.num_own + 1)
        self.names = (
            *shared_names(config.num_shared),
            *(f"of {task} {number}" for task in context.tasks for number in numbers),
        )
        self.shared = nn.ModuleList(expert(context.width, config) for _ in range(config.num_shared))
        own = {task: nn.ModuleList(expert(context.width, config) for _ in range(config.num_own)) for task in self.tasks}
        self.own = nn.ModuleDict(own)
        everyone = config.num_shared + len(self.tasks) * config.num_own
        self.gates = nn.ModuleDict({task: nn.Linear(context.width, everyone) for task in self.tasks})

    def forward(self, told: Mapping[str, Told]) -> Shared:
        """Mix all experts for every task."""
        shared_NXH, _ = run_experts(self.shared, [], told[""])
        own, gates = run_own_experts(self.own, self.gates, told)
        views = {}
        for task in self.tasks:
            experts = [part if other == task else part.detach() for other, part in own.items()]
            views[task] = mixed(gates[task], torch.cat([shared_NXH, *experts], dim=1))
        return Shared(views, gates)

    def expert_names(self) -> dict[str, tuple[str, ...]]:
        """Name the shared experts and those of every task."""
        return dict.fromkeys(self.tasks, self.names)
