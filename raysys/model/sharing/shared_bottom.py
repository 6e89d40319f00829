"""One layer for all tasks (Caruana, 1997, "Multitask Learning")."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from raysys.model.sharing.sharing import Shared, Sharing, SharingConfig, SharingContext, expert


class SharedBottom(Sharing):
    """Every task sees the same."""

    class Config(SharingConfig):
        """Size of the shared layer."""

        kind: Literal["shared_bottom"] = "shared_bottom"

    def __init__(self, config: Config, context: SharingContext) -> None:
        super().__init__(config, context)
        self.tasks = context.tasks
        self.bottom = expert(context.width, config)

    def forward(self, told: Mapping[str, Tensor]) -> Shared:
        """Run the layer once."""
        shared_NH = self.bottom(told[""])
        return Shared(dict.fromkeys(self.tasks, shared_NH))
