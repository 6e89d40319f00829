"""RunConfig: composes the stations' configs into everything a training run needs."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from raysys.component import FrozenConfig, OneOf, kind_of, name_as_kind
from raysys.evaluation.protocol import EvaluationConfig
from raysys.model.adapt import ADAPTS, Full
from raysys.model.backbones import BACKBONES
from raysys.model.recommender import ModelConfig
from raysys.optimizer import OPTIMIZERS, AdamW, OptimizerConfig
from raysys.tasks import TASKS
from raysys.weighting import WEIGHTINGS, FixedWeighting

TasksConfig = dict[str, Annotated[FrozenConfig, OneOf(TASKS)]]


class EarlyStopping(FrozenConfig):
    """Stops when a validation metric no longer improves; the best epoch's weights are kept in any case."""

    metric: str | None = None
    """Name of a validation metric, as in the report; by default the first task's own (next_item.ndcg@10)."""
    patience: int = Field(3, ge=1)
    """Evaluations without improvement before training stops."""


class TrainingConfig(FrozenConfig):
    """The training loop."""

    epochs: int = Field(10, ge=1)
    """Most passes over the training users."""
    batch_size: int = Field(128, ge=1)
    """Users per step, over all workers."""
    batch_by: Literal["users", "tokens"] = "users"
    """What steps have in common: so many users, or about as many tokens and so many users on average. Losses are means
    over a step, so `users` gives the events of short histories more weight than those of long ones; by `tokens` all
    count alike, which suits tasks that are judged event by event."""
    pieces: int = Field(1, ge=1)
    """Steps of an epoch that a user's targets are dealt out to, where he has as many. A vector per user (`mf`,
    `lightgcn`) that all of them move at once is next seen by the very targets that made it, and teaches the towers to
    trust it too much; in pieces it meets targets that it does not know yet. `batch_size` then counts pieces."""
    accumulate: int = Field(1, ge=1)
    """Parts that each worker's share of a step is cut into, one in memory at a time; the step stays the same."""
    num_workers: int = Field(1, ge=1)
    """Ray Train workers; 1 trains in this process."""
    gpu: bool = False
    """Whether every worker takes a GPU."""
    threads: int = Field(1, ge=1)
    """CPU threads of each worker's torch. On operations of this size a second thread gains little on a quiet machine
    and costs twice the CPU, many times that on a busy one; more workers gain more."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoder's matrix products while training; bfloat16 (autocast; weights stay float32) is for GPUs: on the
    CPUs where it was measured it gained nothing."""
    compile: bool = False
    """Whether torch.compile translates the encoder; the first steps then take a minute and need a C++ compiler."""
    random_windows: bool = True
    """Whether a history longer than the model's is seen through another window in every epoch, or always its newest."""
    average_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of a running average of the weights, which is then validated and kept; 0 keeps the weights themselves."""
    evaluate_every: int = Field(1, ge=1)
    """Epochs between validations."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; one is written after every epoch in any case."""
    user_share: float = Field(1.0, gt=0, le=1)
    """Share of the users that are trained on, a fixed sample by a hash of their ids: for quick searches."""
    include_validation: bool = False
    """Whether validation events are trained on too: for a last training with settings that are known to be good. Then
    nothing tells which epoch is best, so the last one is kept, and probabilities are not calibrated."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the last checkpoint when workers die."""


class RunConfig(FrozenConfig):
    """A training run, pretraining and fine-tuning alike."""

    project: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the dataset, its runs and its aliases."""
    root: str = "store"
    """Directory under which datasets, runs, aliases and studies live."""
    plugins: tuple[str, ...] = ()
    """Modules to import first: they may add tasks, backbones, ... to the registries."""
    dataset: str | None = None
    """Dataset directory; by default the project's own."""
    start_from: str | None = None
    """Run whose weights to start from: a directory, a run id or project@alias."""
    adapt: Annotated[FrozenConfig, OneOf(ADAPTS, default="full")] = Full.Config()
    """Which parameters train."""
    seed: int = 0
    model: ModelConfig = ModelConfig()
    tasks: Annotated[TasksConfig, BeforeValidator(name_as_kind)] = Field(
        {"next_item": {}}, min_length=1, validate_default=True
    )
    """Tasks by name; a task's kind is its name unless it says `kind:`."""
    weighting: Annotated[FrozenConfig, OneOf(WEIGHTINGS, default="fixed")] = FixedWeighting.Config()
    optimizer: Annotated[OptimizerConfig, OneOf(OPTIMIZERS, default="adamw")] = AdamW.Config()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _tasks_can_be_modules(self) -> "RunConfig":
        for name in self.tasks:
            if "." in name or hasattr(nn.ModuleDict, name):
                raise ValueError(f"tasks: a task cannot be called {name!r}; give it another name and say its `kind:`")
        return self

    @model_validator(mode="after")
    def _weighting_knows_the_tasks(self) -> "RunConfig":
        WEIGHTINGS[kind_of(self.weighting)](self.weighting, tuple(self.tasks))
        return self

    @model_validator(mode="after")
    def _users_left_out_have_no_vector(self) -> "RunConfig":
        share, kind = self.training.user_share, kind_of(self.model.backbone)
        if share < 1 and BACKBONES[kind].per_user:
            raise ValueError(
                f"training.user_share: {share}, but the backbone {kind} has a vector for every user, so nothing "
                "would be known of those left out; write 1, or take another backbone"
            )
        return self

    @model_validator(mode="after")
    def _only_sums_accumulate(self) -> "RunConfig":
        if self.training.accumulate > 1 and kind_of(self.weighting) != "fixed":
            raise ValueError(
                f"training.accumulate: {self.training.accumulate} with weighting {kind_of(self.weighting)}, which sees "
                "whole steps; use accumulate: 1 or weighting: {kind: fixed}"
            )
        return self
