"""Rating: the stars a user will give an item, from the state strictly before it."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Batch, Targets
from raysys.errors import UserError, nearest
from raysys.model.dropout import Dropout
from raysys.model.recommender import Encoded
from raysys.tasks.losses import squared_error
from raysys.tasks.task import Task, TaskContext


class Rating(Task):
    """Regression of a numeric label by a small tower over (state, item, state x item)."""

    source = "pairs"
    predicts = "value"

    class Config(FrozenConfig):
        """Squared error on a numeric label."""

        kind: Literal["rating"] = "rating"
        label: str = "rating"
        """Label of the dataset that is predicted."""
        positive_from: float | None = 4.0
        """Ratings from here on count as liked, for AUC."""
        hidden: int = Field(64, ge=1)
        """Width of the tower's hidden layer."""
        dropout: float = Field(0.2, ge=0, lt=1)

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context)
        self.label, self.positive_from = config.label, config.positive_from
        if config.label not in context.labels:
            raise UserError(
                f"tasks: rating: no label {config.label!r} in the dataset{nearest(config.label, context.labels)} "
                f"(it has: {', '.join(context.labels) or 'none'})"
            )
        self.item_bias = nn.Embedding(context.vocabulary_size, 1)
        nn.init.zeros_(self.item_bias.weight)
        self.tower = nn.Sequential(
            nn.Linear(3 * context.width, config.hidden),
            nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(config.hidden, 1),
        )
        nn.init.constant_(self.tower[-1].bias, context.label_means[config.label])  # type: ignore[arg-type]

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return predicted labels [B, C]."""
        states_BCD = encoded.state_before(targets.anchor_BC)
        items_BCD = encoded.items(targets.items_BC)
        tower_BC = self.tower(torch.cat([states_BCD, items_BCD, states_BCD * items_BCD], dim=-1)).squeeze(-1)
        return tower_BC + self.item_bias(targets.items_BC).squeeze(-1)

    def count(self, view: Batch) -> Tensor:
        """Count the targets whose label is known."""
        return self._known(view).sum().float()

    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Squared error where the label is known."""
        predictions_BC = logits[self.name]
        labels_BC = view.targets.labels[self.label]
        known_BC = torch.where(self._known(view), labels_BC, predictions_BC.detach())  # no error, but a graph
        return squared_error(predictions_BC, known_BC)

    def _known(self, view: Batch) -> Tensor:
        return view.targets.mask_BC & view.targets.labels[self.label].isfinite()
