"""TuneConfig: what a search varies, what it is judged by, and how much it may cost."""

from typing import Annotated, Any

from pydantic import Field

from raysys.component import FrozenConfig, OneOf
from tuning.schedulers import SCHEDULERS, Asha
from tuning.space import DISTRIBUTIONS


class TuneConfig(FrozenConfig):
    """A search for a better train config."""

    base: str | dict[str, Any]
    """A train config: its YAML file, relative to this one, or its keys."""
    space: dict[str, Annotated[FrozenConfig, OneOf(DISTRIBUTIONS)]] = Field(min_length=1)
    """Dotted paths of the train config, each with the values it may take."""
    metric: str
    """A validation metric (next_item.ndcg@10). It compares trials, and decides which epoch of a trial is best."""
    num_trials: int = Field(8, ge=1)
    """Configurations to try; the first is the base itself."""
    max_concurrent: int = Field(1, ge=1)
    """Most trials that run at a time; with 1 a search repeats exactly."""
    cpus_per_trial: int = Field(1, ge=1)
    """Cores that a trial reserves: as many as the base sets in training.threads."""
    seed: int = 0
    """Of the proposals; the trainings keep the seed of the base."""
    scheduler: Annotated[FrozenConfig, OneOf(SCHEDULERS, default="asha")] = Asha.Config()
    """Which trials are stopped early."""
