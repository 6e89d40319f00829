"""MMoE: multi-gate mixture of experts (Ma et al., 2018, KDD)."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from raysys.model.sharing.sharing import (
    Shared,
    Sharing,
    SharingConfig,
    SharingContext,
    expert,
    gate_shares,
    run_experts,
    shared_names,
)
from raysys.model.told import Told


class MMoE(Sharing):
    """All experts are shared; each task mixes them by a gate of its own (equations 6 and 7)."""

    class Config(SharingConfig):
        """Number of experts."""

        kind: Literal["mmoe"] = "mmoe"
        num_experts: int = Field(4, ge=1)

    def __init__(self, config: Config, context: SharingContext) -> None:
        super().__init__(config, context)
        self.experts = nn.ModuleList(expert(context.width, config) for _ in range(config.num_experts))
        self.gates = nn.ModuleDict({task: nn.Linear(context.width, config.num_experts) for task in context.tasks})

    def forward(self, told: Mapping[str, Told]) -> Shared:
        """Mix the experts for every task."""
        experts_NXH, logits_NG = run_experts(self.experts, self.gates.values(), told[""])  # type: ignore[arg-type]
        gates_NTX = gate_shares(logits_NG.reshape(len(logits_NG), len(self.gates), len(self.experts)))
        by_task, gates = (
            dict(zip(self.gates, each.unbind(1), strict=True)) for each in (gates_NTX @ experts_NXH, gates_NTX)
        )
        return Shared(by_task, gates)

    def expert_names(self) -> dict[str, tuple[str, ...]]:
        """Name the shared experts."""
        return dict.fromkeys(self.gates, shared_names(len(self.experts)))


def mixed(weights_NX: Tensor, experts_NXH: Tensor) -> Tensor:
    """Return the weighted sum of experts [N, H]."""
    # matrix products of one row each take three times as long, forward and back
    return (weights_NX.unsqueeze(-1) * experts_NXH).sum(1)
