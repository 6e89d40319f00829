"""TuneConfig: what a search varies, what it is judged by, and how much it may cost."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from raysys.component import FrozenConfig, OneOf
from tuning.distributions import DISTRIBUTIONS
from tuning.objectives import COSTS, PICKS, ObjectiveConfig, Objectives, Weighted
from tuning.schedulers import SCHEDULERS, Asha
from tuning.searchers import SEARCHERS, TPE
from tuning.simplex import Simplex
from tuning.stopping import StopConfig


class TuneConfig(FrozenConfig):
    """A search for a better train config."""

    base: str | dict[str, Any]
    """A train config: its YAML file, relative to this one, or its keys."""
    space: dict[str, Annotated[FrozenConfig, OneOf(DISTRIBUTIONS)]] = Field(min_length=1)
    """Dotted paths of the train config, each with the values it may take."""
    metric: str | None = None
    """A validation metric (next_item.ndcg@10). It compares trials, and decides which epoch of a trial is best."""
    objectives: tuple[ObjectiveConfig, ...] = ()
    """Several in place of `metric`; the first validation metric among them decides which epoch of a trial is best."""
    pick: Annotated[FrozenConfig, OneOf(PICKS, default="weighted")] = Weighted.Config()
    """Which trial wins by several objectives."""
    constraints: tuple[str, ...] = ()
    """What trials must satisfy, as comparisons of numbers: "optimizer.table_learning_rate <= 0.01"."""
    num_trials: int = Field(8, ge=1)
    """Configurations to try; the first is the base itself."""
    max_concurrent: int = Field(1, ge=1)
    """Most trials that run at a time; with 1 a search repeats exactly."""
    cpus_per_trial: int = Field(1, ge=1)
    """Cores that a trial reserves, or each of its workers: as many as the base sets in training.threads."""
    gpus_per_trial: float = Field(1.0, gt=0)
    """GPUs that a trial reserves where the base says training.gpu, or each of its workers: with .25 four trials of one
    worker share one."""
    dataset_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the users that trials train on; below 1 the best trials are then verified on all."""
    verify: int = Field(3, ge=1)
    """Trials that are trained again on all users, beside the base, where trials had only a share of them."""
    seed: int = Field(0, ge=0)
    """Of the proposals; the trainings keep the seed of the base."""
    searcher: Annotated[FrozenConfig, OneOf(SEARCHERS, default="tpe")] = TPE.Config()
    """What proposes configurations; with several objectives gp, unless another is named."""
    scheduler: Annotated[FrozenConfig, OneOf(SCHEDULERS, default="asha")] = Asha.Config()
    """Which trials are stopped early; with several objectives, none are."""
    storage: str | None = None
    """A database for the record of the search, as a URL of SQLAlchemy (sqlite:///studies.db, postgresql://...); null is
    a journal in the study's own directory."""
    stop: StopConfig = StopConfig()
    """What ends the search before num_trials."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_several_objectives(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("objectives"):
            return {"scheduler": {"kind": "none"}, "searcher": {"kind": "gp"}, **value}
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> "TuneConfig":
        if (self.metric is None) == (not self.objectives):
            raise ValueError("metric: write either `metric`, or `objectives` for several")
        names = self.judged_by.metrics
        if self.objectives and len(set(names)) < max(len(names), 2):
            raise ValueError("objectives: name two or more, each once; one is written as `metric`")
        if all(name in COSTS for name in names):
            raise ValueError(f"metric: {', '.join(names)}: a search needs a validation metric beside what it costs")
        if self.metric is not None and self.pick != Weighted.Config():
            raise ValueError("pick: a single metric needs no rule; leave it out")
        self._check_simplexes()
        return self

    def _check_simplexes(self) -> None:
        for path, config in self.space.items():
            for key in config.keys if isinstance(config, Simplex.Config) else ():
                if f"{path}.{key}" in self.space:
                    raise ValueError(f"space.{path}.{key}: the simplex at {path} sets it already")

    @property
    def judged_by(self) -> Objectives:
        """The metrics, one or several."""
        several = [one.metric for one in self.objectives]
        return Objectives([self.metric] if self.metric is not None else several)
