"""Fixed weights: a plain weighted sum, the baseline and what tuning searches over."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.errors import UserError, nearest
from raysys.weighting.weighting import Combined, Weighting


class FixedWeighting(Weighting):
    """total = sum of weight x loss."""

    class Config(FrozenConfig):
        """Weights by task name; tasks that are not named weigh 1."""

        kind: Literal["fixed"] = "fixed"
        weights: dict[str, NonNegativeFloat] = {}

    def __init__(self, config: Config, tasks: tuple[str, ...]) -> None:
        super().__init__(config, tasks)
        for name in config.weights:
            if name not in tasks:
                raise UserError(
                    f"weighting.weights: no task {name!r}{nearest(name, tasks)} (the run has: {', '.join(tasks)})"
                )
        weights = torch.tensor([config.weights.get(name, 1.0) for name in tasks])
        self.register_buffer("weights_T", weights, persistent=False)

    def combine(self, losses_T: Tensor, gram: Callable[[], Tensor]) -> Combined:
        """Add the losses up, weighted."""
        weights_T: Tensor = self.weights_T  # type: ignore[assignment]
        return Combined((losses_T * weights_T).sum(), weights_T)
