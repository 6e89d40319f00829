"""Balances the task gradients of each step by the methods of torchjd, from their inner products alone."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.errors import UserError
from raysys.weighting.weighting import Combined, Weighting

_PARAMETERS: dict[str, tuple[str, float]] = {
    "cagrad": ("c", 0.5),
    "fairgrad": ("alpha", 2.0),
    "gradvac": ("beta", 0.5),
    "pcd": ("tau", 0.02),
}


class GramianWeighting(Weighting):
    """Weights found from the inner products of the task gradients in each step, before one ordinary backward pass.

    A task without a valid target in the step weighs 0. One with targets whose gradient does not reach what the tasks
    share, as of users who did nothing before, is in nobody's way and weighs 1; so does one whose gradient is alone.
    Where a method finds no direction that all tasks share, they weigh 1: their own heads learn.

    Every rank sees the same reduced matrix and finds the same weights. The random orders of `pcgrad` and `gradvac` are
    drawn from the number of the step. What `gradvac` and `smoothing` remember is in buffers, and so in checkpoints;
    the other methods start afresh in every step.
    """

    class Config(FrozenConfig):
        """Which method, with its parameter where it has one. It needs `pip install 'raysys[gramian]'`."""

        kind: Literal["gramian"] = "gramian"
        method: Literal[
            "upgrad",
            "dualproj",
            "cagrad",
            "pcgrad",
            "gradvac",
            "mgda",
            "imtl_g",
            "aligned_mtl",
            "nash_mtl",
            "fairgrad",
            "pcd",
            "krum",
        ] = "upgrad"
        c: NonNegativeFloat | None = None
        """Of cagrad: how far from the mean gradient, as a share of its norm, it looks for help for the task that gains
        least; 0.5 where null."""
        alpha: PositiveFloat | None = None
        """Of fairgrad: 1 is nash_mtl, more helps the task that gains least; 2 where null."""
        beta: float | None = Field(None, ge=0, le=1)
        """Of gradvac: how fast the cosines that it aims at follow those it sees; 0.5 where null."""
        tau: float | None = Field(None, ge=0, le=1)
        """Of pcd, which follows the gradient of the first task in the config: the share of progress along its own
        gradient that every other task is granted; 0.02 where null."""
        smoothing: float = Field(0.0, ge=0, lt=1)
        """Share of a weight that is kept from step to step (CR-MOGM, Zhou et al., NeurIPS 2022)."""

        @model_validator(mode="after")
        def _parameters_belong_to_methods(self) -> "GramianWeighting.Config":
            for method, (name, _) in _PARAMETERS.items():
                if getattr(self, name) is not None and method != self.method:
                    raise ValueError(
                        f"{name} is a parameter of {method}, and the method is {self.method}; leave it out"
                    )
            return self

    steps: Tensor
    memory_TT: Tensor
    smoothed_T: Tensor

    def __init__(self, config: Config, tasks: tuple[str, ...]) -> None:
        """Build the method.

        Raises:
            UserError: torchjd is not installed.
        """
        super().__init__(config, tasks)
        self.smoothing = config.smoothing
        name, default = _PARAMETERS.get(config.method, ("", 0.0))
        given = getattr(config, name, None)
        try:
            from raysys.weighting.methods import build_method

            self.method = build_method(config.method, default if given is None else given)
        except ImportError:
            raise UserError(
                "weighting: gramian needs the library torchjd with its solvers, which is not installed; "
                "run `pip install 'raysys[gramian]'` or take another weighting"
            ) from None
        size = len(tasks)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("memory_TT", torch.zeros(size, size, dtype=torch.float64))
        self.register_buffer("smoothed_T", torch.full((size,), -1.0, dtype=torch.float64))  # -1: no weight yet

    def combine(self, losses_T: Tensor, gram: Callable[[], Tensor]) -> Combined:
        """Weigh the losses by what the method makes of their gradients."""
        present_T = (losses_T.detach() > 0).to("cpu", torch.float64)
        weights_T = self._weigh(gram().detach().to("cpu", torch.float64), present_T).to(losses_T)
        self.steps.add_(1)
        return Combined((losses_T * weights_T).sum(), weights_T)

    def _weigh(self, gram_TT: Tensor, present_T: Tensor) -> Tensor:
        if not gram_TT.isfinite().all():
            return torch.ones(len(gram_TT))  # the loss is no number either, and the loop says so better than a solver
        at_K = (gram_TT.diagonal() > 0).nonzero().squeeze(1)
        place_KK = (at_K.unsqueeze(1), at_K)
        memory_TT = self.memory_TT.cpu()
        memory_KK = memory_TT[place_KK]
        weights_K = self._solve(gram_TT[place_KK], memory_KK)
        memory_TT[place_KK] = memory_KK
        self.memory_TT.copy_(memory_TT)
        weights_T = present_T
        weights_T[at_K] = self._smooth(weights_K, at_K)
        return weights_T

    def _solve(self, gram_KK: Tensor, memory_KK: Tensor) -> Tensor:
        if len(gram_KK) < 2:
            return torch.ones(len(gram_KK), dtype=torch.float64)
        # Gradients of a mean over many targets are small, and solvers take what is small for zero.
        scaled_KK = gram_KK / gram_KK.diagonal().mean()
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(int(self.steps))
            weights_K = self.method(scaled_KK, memory_KK)
        return weights_K if weights_K.sum() > 0 else torch.ones_like(weights_K)

    def _smooth(self, weights_K: Tensor, at_K: Tensor) -> Tensor:
        if self.smoothing == 0:
            return weights_K
        smoothed_T = self.smoothed_T.cpu()
        last_K = torch.where(smoothed_T[at_K] < 0, weights_K, smoothed_T[at_K])
        smoothed_T[at_K] = self.smoothing * last_K + (1 - self.smoothing) * weights_K
        self.smoothed_T.copy_(smoothed_T)
        return smoothed_T[at_K]
