"""Which trials are stopped before their last epoch. Names classes of Ray Tune without importing it.

To add a kind: write a class like those below and add its line to SCHEDULERS.
"""

import math
from abc import ABC
from typing import Any, ClassVar, Literal

from pydantic import Field

from raysys.component import FrozenConfig
from raysys.errors import UserError


class Scheduler(ABC):
    """Says which class of ray.tune.schedulers decides, and with which options."""

    Config: ClassVar[type[FrozenConfig]]
    ray_class: ClassVar[str]
    needs_one_objective: ClassVar[bool] = True
    """Whether it compares trials by one number."""

    def __init__(self, config: FrozenConfig) -> None:
        self.config: Any = config

    def options(self, most_epochs: int) -> dict[str, Any]:
        """Return the arguments of the class, where no trial has more than `most_epochs` epochs.

        Raises:
            UserError: with so many epochs the scheduler could do nothing.
        """
        return {}


class Asha(Scheduler):
    """Asynchronous successive halving: after 1, 3, 9, ... epochs only the best third goes on."""

    ray_class = "ASHAScheduler"

    class Config(FrozenConfig):
        """Rungs lie at grace_epochs times powers of reduction_factor."""

        kind: Literal["asha"] = "asha"
        grace_epochs: int = Field(1, ge=1)
        """No trial is stopped before it has trained so many epochs."""
        reduction_factor: int = Field(3, ge=2)
        """At each rung one trial in so many goes on."""

    def options(self, most_epochs: int) -> dict[str, Any]:
        """Return rungs on the epochs of training."""
        return {
            "time_attr": "epoch",
            "max_t": most_epochs,
            "grace_period": _grace(self.config, most_epochs),
            "reduction_factor": self.config.reduction_factor,
        }


class Median(Scheduler):
    """A trial ends when its best epoch is worse than the median of the others' means so far (Golovin et al., 2017).

    Gentler than `asha`: a trial that is better than half of the others goes on.
    """

    ray_class = "MedianStoppingRule"

    class Config(FrozenConfig):
        """When trials are compared."""

        kind: Literal["median"] = "median"
        grace_epochs: int = Field(1, ge=1)
        """No trial is stopped before it has trained so many epochs; what came before does not enter the means."""
        least_trials: int = Field(3, ge=1)
        """Other trials that must have come as far."""

    def options(self, most_epochs: int) -> dict[str, Any]:
        """Return the rule on the epochs of training."""
        return {
            "time_attr": "epoch",
            "grace_period": _grace(self.config, most_epochs),
            "min_samples_required": self.config.least_trials,
            # Otherwise Ray pauses trials while there are few to compare with, and a paused one begins anew.
            "min_time_slice": math.inf,
        }


class NoScheduler(Scheduler):
    """Every trial trains to its end."""

    ray_class = "FIFOScheduler"
    needs_one_objective = False

    class Config(FrozenConfig):
        """Nothing is stopped."""

        kind: Literal["none"] = "none"


SCHEDULERS: dict[str, type[Scheduler]] = {"asha": Asha, "median": Median, "none": NoScheduler}


def _grace(config: Any, most_epochs: int) -> int:
    grace: int = config.grace_epochs
    if grace >= most_epochs:
        raise UserError(
            f"scheduler.grace_epochs: {grace}, but a trial has {most_epochs} epochs, so none could be stopped; "
            "write fewer, or scheduler: {kind: none}"
        )
    return grace
