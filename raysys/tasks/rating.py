"""Rating: the stars a user will give an item, from the state strictly before it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raysys.data.batches import Targets
from raysys.tasks.pointwise import Pointwise, PointwiseConfig
from raysys.tasks.task import TaskContext


class Rating(Pointwise):
    """Regression of a numeric label."""

    predicts = "value"

    class Config(PointwiseConfig):
        """Squared error on a numeric label."""

        kind: Literal["rating"] = "rating"
        label: str = "rating"
        """Label of the dataset that is predicted."""
        positive_from: float | None = 4.0
        """Ratings from here on count as liked, for AUC."""

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context)
        self.positive_from = config.positive_from
        torch.nn.init.constant_(self.start_level, context.label_means[config.label])

    def errors(self, logits_BC: Tensor, targets: Targets) -> Tensor:
        """Squared error."""
        return F.mse_loss(logits_BC, targets.labels[self.label].nan_to_num(), reduction="none")
