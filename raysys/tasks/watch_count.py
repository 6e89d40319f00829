"""Watch count: how many events a user will have within a horizon."""

from typing import Literal

from torch import Tensor

from raysys.data.batches import Targets
from raysys.tasks.user_outcome import AHEAD, UserOutcome, UserOutcomeConfig

_LARGEST = 12.0  # log of a count: e^12 is 160,000


class WatchCount(UserOutcome):
    """Poisson regression on the state (McCullagh and Nelder, 1989, chapter 6); predictions are expected counts."""

    predicts = "value"
    positive_from: float | None = None

    class Config(UserOutcomeConfig):
        """`events` says what is counted: watches, orders, visits."""

        kind: Literal["watch_count"] = "watch_count"

    def truth(self, targets: Targets) -> Tensor:
        """Return the number of events within the horizon, NaN where it is not known."""
        return targets.labels[AHEAD]

    def errors(self, scores_N: Tensor, truth_N: Tensor) -> Tensor:
        """Negative log-likelihood less what does not depend on the prediction."""
        return self.predict(scores_N) - truth_N * scores_N.clamp(max=_LARGEST)

    def predict(self, logits: Tensor) -> Tensor:
        """Return expected counts."""
        return logits.clamp(max=_LARGEST).exp()
