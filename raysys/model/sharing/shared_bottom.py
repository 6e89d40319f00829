"""One layer for all tasks (Caruana, 1997, "Multitask Learning")."""

from collections.abc import Mapping
from typing import Literal

from raysys.model.sharing.sharing import Shared, Sharing, SharingConfig, SharingContext, expert, run_experts
from raysys.model.told import Told


class SharedBottom(Sharing):
    """Every task sees the same."""

    class Config(SharingConfig):
        """Size of the shared layer."""

        kind: Literal["shared_bottom"] = "shared_bottom"

    def __init__(self, config: Config, context: SharingContext) -> None:
        super().__init__(config, context)
        self.tasks = context.tasks
        self.bottom = expert(context.width, config)

    def forward(self, told: Mapping[str, Told]) -> Shared:
        """Run the layer once."""
        shared_N1H, _ = run_experts([self.bottom], [], told[""])
        return Shared(dict.fromkeys(self.tasks, shared_N1H.squeeze(1)))
