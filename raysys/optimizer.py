"""Optimizers, parameter groups and the learning-rate schedule. To add an optimizer: a class below and its line."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from raysys.component import FrozenConfig, kind_of
from raysys.errors import UserError

Groups = list[dict[str, Any]]
"""Parameter groups as torch takes them: `params`, `weight_decay` and `peak`, the learning rate after the warm-up."""


class OptimizerConfig(FrozenConfig):
    """What all optimizers have in common."""

    kind: str
    learning_rate: float = Field(1e-3, gt=0)
    table_learning_rate: float | None = Field(None, gt=0)
    """Of embedding tables, under the same schedule; null takes learning_rate."""
    weight_decay: float = Field(0.0, ge=0)
    """Of matrices only: norms, biases and embedding tables are left alone."""
    warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up; cosine falls to 0 at the last step."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest norm of the whole gradient; null for no clipping."""


class OptimizerKind(ABC):
    """Makes a torch optimizer: its fused implementation, which every optimizer here has on CPU and CUDA."""

    Config: ClassVar[type[OptimizerConfig]]

    def __init__(self, config: OptimizerConfig) -> None:
        self.config = config

    @abstractmethod
    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """Return the optimizer over parameter groups that name their own weight decay."""


class RunningMeans(OptimizerConfig):
    """What Adam and its kin have in common."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients."""


class AdamW(OptimizerKind):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv 1711.05101, algorithm 2)."""

    class Config(RunningMeans):
        """AdamW's running means."""

        kind: Literal["adamw"] = "adamw"

    config: Config

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """Return torch's AdamW."""
        betas = (self.config.beta1, self.config.beta2)
        return _uncompiled(torch.optim.AdamW)(groups, lr=self.config.learning_rate, betas=betas, fused=True)


class Adam(OptimizerKind):
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980, algorithm 1); weight decay is added to the gradient."""

    class Config(RunningMeans):
        """Adam's running means."""

        kind: Literal["adam"] = "adam"

    config: Config

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """Return torch's Adam."""
        betas = (self.config.beta1, self.config.beta2)
        return _uncompiled(torch.optim.Adam)(groups, lr=self.config.learning_rate, betas=betas, fused=True)


class SGD(OptimizerKind):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013); weight decay is added to the gradient."""

    class Config(OptimizerConfig):
        """SGD's step and momentum; one parameter-sized buffer instead of Adam's two, none without momentum."""

        kind: Literal["sgd"] = "sgd"
        learning_rate: float = Field(0.1, gt=0)
        """Larger than Adam's, whose steps do not shrink with the gradient."""
        momentum: float = Field(0.9, ge=0, lt=1)
        """Share of the last step that is taken again."""
        nesterov: bool = False
        """Whether the gradient is looked at where momentum leads."""

        @model_validator(mode="after")
        def _nesterov_looks_along_momentum(self) -> "SGD.Config":
            if self.nesterov and not self.momentum:
                raise ValueError("nesterov needs momentum above 0")
            return self

    config: Config

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """Return torch's SGD."""
        config = self.config
        return _uncompiled(torch.optim.SGD)(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov, fused=True
        )


def _uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimizer of torch without what would load torch's compiler when it is made and when it steps.

    torch wraps these methods for steps that are compiled. Ours never are (only the encoder may be), and the compiler
    costs every process 70 MB and more than a second.
    """
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(inspect.unwrap(kind.step))})


_WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")

OPTIMIZERS: dict[str, type[OptimizerKind]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}
"""Kind -> class."""


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer over the trainable parameters, matrices of linear layers apart from the rest.

    Raises:
        UserError: tables have a learning rate of their own, and none is trained.
    """
    embedded = {id(p) for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in embedded]
    others = [p for p in trainable if p.ndim < 2 or id(p) in embedded]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "peak": config.learning_rate},
        {"params": others, "weight_decay": 0.0, "peak": config.learning_rate},
    ]
    if config.table_learning_rate is not None:
        groups[1]["params"] = [p for p in others if id(p) not in embedded]
        tables = [p for p in others if id(p) in embedded]
        if not tables:
            raise UserError("optimizer.table_learning_rate: no embedding table is trained here; leave it out")
        groups.append({"params": tables, "weight_decay": 0.0, "peak": config.table_learning_rate})
    return OPTIMIZERS[kind_of(config)](config).build([group for group in groups if group["params"]])


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, total_steps: int, config: OptimizerConfig) -> None:
    """Give every group of an optimizer of `build_optimizer` its learning rate of a step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, total_steps, config, group["peak"])


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig, peak: float | None = None) -> float:
    """Return the learning rate of a step (from 0): a pure function, so that a resumed run needs no schedule state.

    `peak` is what the schedule scales: the config's own learning rate unless it is given.
    """
    peak = config.learning_rate if peak is None else peak
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    share = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def clip(parameters: Sequence[Tensor], norm: float) -> None:
    """Scale the gradients down to a norm over all of them, where it is larger; without reading it back."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    found = nn.utils.get_total_norm(gradients, foreach=True)
    nn.utils.clip_grads_with_norm_(parameters, norm, found, foreach=True)
