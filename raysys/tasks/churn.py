"""Churn: whether a user stays away, that is, has no event within a horizon."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raysys.data.batches import Targets
from raysys.data.times import Duration
from raysys.tasks.user_outcome import AHEAD, UserOutcome, UserOutcomeConfig


class Churn(UserOutcome):
    """Logistic regression on the state; predictions are probabilities of staying away."""

    predicts = "probability"
    positive_from: float | None = 1.0

    class Config(UserOutcomeConfig):
        """Nothing within the horizon is a yes."""

        kind: Literal["churn"] = "churn"
        horizon: Duration = Field("7d", validate_default=True)
        """How long a user has to stay away, from the time of his token."""

    def truth(self, targets: Targets) -> Tensor:
        """Return 1 where nothing followed within the horizon, 0 where something did, NaN where that is not known."""
        ahead_BC = targets.labels[AHEAD]
        return torch.where(ahead_BC.isnan(), torch.nan, (ahead_BC == 0).float())

    def errors(self, scores_N: Tensor, truth_N: Tensor) -> Tensor:
        """Binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(scores_N, truth_N, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """Return probabilities."""
        return logits.sigmoid()
