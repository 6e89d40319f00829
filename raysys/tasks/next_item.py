"""Next item: which item of the catalogue comes next, by full softmax over all of it."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.batches import Batch, Targets
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError, nearest
from raysys.model.recommender import Encoded
from raysys.tasks.losses import full_softmax
from raysys.tasks.task import LossSum, Task, TaskContext

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class NextItem(Task):
    """Autoregressive retrieval, the pretraining task."""

    source = "users"

    class Config(FrozenConfig):
        """Full softmax over the catalogue."""

        kind: Literal["next_item"] = "next_item"
        events: tuple[str, ...] = ()
        """Events that are predicted; the history events when empty."""
        precision: Literal["float32", "bfloat16"] = "float32"
        """Of the matrix products with the item table; bfloat16 is about three times as fast where the CPU has it."""

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context)
        self.precision = PRECISIONS[config.precision]
        for name in config.events:
            if name not in context.event_names:
                raise UserError(
                    f"tasks.next_item.events: no event {name!r} in the dataset{nearest(name, context.event_names)} "
                    f"(it has: {', '.join(context.event_names)})"
                )
        wanted = config.events or context.history
        chosen = torch.tensor([name in wanted for name in context.event_names] or [True])
        self.register_buffer("is_predicted", chosen, persistent=False)

    def query(self, states_ND: Tensor) -> Tensor:
        """A state is its own query."""
        return states_ND

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return state . item vector [B, C]."""
        return (encoded.state_before(targets.anchor_BC) * encoded.items(targets.items_BC)).sum(-1)

    def loss(self, encoded: Encoded, batch: Batch, logits: Mapping[str, Tensor]) -> LossSum:
        """Cross-entropy at valid positions only."""
        targets = batch.targets
        valid_BC = targets.mask_BC & (targets.items_BC >= FIRST_ITEM) & self.is_predicted[targets.events_BC]  # type: ignore[index]
        states_ND = encoded.state_before(targets.anchor_BC, valid_BC)
        items_N = targets.items_BC[valid_BC] - FIRST_ITEM
        total = full_softmax(states_ND, encoded.items.table(), items_N, self.precision)
        return LossSum(total, torch.tensor(float(len(items_N)), device=total.device))
