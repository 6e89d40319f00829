"""What learns: the network with its loss weighting, optimizer and running average; takes one step at a time."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raysys.component import kind_of
from raysys.config import RunConfig
from raysys.data.batches import Batch
from raysys.errors import UserError
from raysys.model.adapt import ADAPTS
from raysys.optimizer import build_optimizer, clip, set_learning_rates
from raysys.tasks.multitask import MultiTask, StepLosses
from raysys.training.average import WeightAverage
from raysys.training.gram import task_gram
from raysys.training.meter import BalanceMeter
from raysys.training.parallel import Parallel
from raysys.weighting import WEIGHTINGS


class Learner:
    """Everything that a step changes."""

    def __init__(self, config: RunConfig, network: MultiTask, parallel: Parallel, total_steps: int) -> None:
        """Take a network to train for so many steps.

        Raises:
            UserError: nothing of it would train.
        """
        self.config, self.parallel, self.total_steps = config, parallel, total_steps
        self.network = network.to(parallel.device)
        ADAPTS[kind_of(config.adapt)](config.adapt).apply(network.recommender)
        weighting = WEIGHTINGS[kind_of(config.weighting)](config.weighting, tuple(config.tasks))
        self.weighting = weighting.to(parallel.device)
        self.balance = BalanceMeter(tuple(config.tasks)).to(parallel.device)
        self.module = nn.ModuleDict({"network": self.network, "weighting": self.weighting, "balance": self.balance})
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        if not self.parameters:
            raise UserError(
                f"adapt: {kind_of(config.adapt)}: nothing to train, because {', '.join(config.tasks)} has no head of "
                "its own; use adapt: {kind: full} or add a task such as rating"
            )
        self.weighting_parameters = list(self.weighting.parameters())
        self.optimizer = build_optimizer(self.module, config.optimizer)
        self.average = WeightAverage(self.network, config.training.average_decay)
        if config.training.compile:
            network.recommender.backbone.compile(dynamic=True)  # in place: the names of weights stay
        self._wrapped: nn.Module | None = None

    def step(self, step: int, parts: Sequence[Batch]) -> Tensor:
        """Take the optimizer step of a number (from 0) on this rank's share of a global batch, given in parts.

        Counts come before losses, over all parts and ranks: so the gradients of parts add up to that of the mean
        over the step's valid targets, however it is cut.

        Returns:
            f64 [1 + T]: the combined loss and each task's mean, of the whole step on every rank, still on the device.
        """
        self._seed(step)
        views = [self.network.prepare(part) for part in parts]
        counts_T = self.parallel.sum(torch.stack([self.network.counts(view) for view in views]).sum(dim=0))
        counts_T.clamp_(min=1)
        self.optimizer.zero_grad()
        network = self._synchronised()
        losses = torch.zeros(1 + len(self.config.tasks), dtype=torch.float64, device=self.parallel.device)
        for at, view in enumerate(views):
            with contextlib.nullcontext() if at == len(views) - 1 else self.parallel.apart(network):
                losses += self._backward(network, view, counts_T)
        self._update(step)
        return losses

    def end_epoch(self, losses_T: Sequence[float]) -> dict[str, float]:
        """Tell the weighting an epoch's mean losses; return the epoch's means of weights and gradient cosines."""
        self.weighting.end_epoch(torch.tensor(losses_T, dtype=torch.float64))
        return self.balance.take()

    def _backward(self, network: nn.Module, views: tuple[Batch, ...], counts_T: Tensor) -> Tensor:
        """Add the gradient of one part of a step and return its share of the losses [1 + T]."""
        found = self._forward(network, views)
        means_T = self.parallel.sum(found.totals_T) / counts_T
        # Averaging over ranks divides by the world size, so this rank's share is scaled by it: the gradient of a
        # mean over all valid targets. The value is the reduced mean to the last bit: every rank weighs the same losses.
        local_T = found.totals_T * self.parallel.world_size / counts_T
        losses_T = means_T + (local_T - local_T.detach())

        def gram() -> Tensor:
            if not found.shared[0].requires_grad:
                raise UserError(
                    f"weighting: {kind_of(self.config.weighting)} compares the tasks' gradients at the states they "
                    f"share, and with adapt: {kind_of(self.config.adapt)} these are fixed; take another weighting"
                )
            trained = [states for states in found.shared if states.requires_grad]
            gram_TT = task_gram(losses_T, trained, self.parallel)
            self.balance.add_gram(gram_TT)
            return gram_TT

        combined = self.weighting.combine(losses_T, gram)
        self.balance.add_weights(combined.weights_T)
        combined.total.backward()  # type: ignore[no-untyped-call]
        return torch.cat([combined.total.detach().reshape(1), means_T])

    def _forward(self, network: nn.Module, views: tuple[Batch, ...]) -> StepLosses:
        training, plain = self.config.training, contextlib.nullcontext()
        reduced = torch.autocast(self.parallel.device.type, torch.bfloat16)
        with (
            _compilation_explained() if training.compile else plain,
            reduced if training.precision == "bfloat16" else plain,
        ):
            found: StepLosses = network(views)
        return found

    def _update(self, step: int) -> None:
        config = self.config.optimizer
        if config.clip_norm is not None:
            clip(self.parameters, config.clip_norm)
            if self.weighting_parameters:  # apart: a loss of 9 would else leave the network a ninth of its norm
                clip(self.weighting_parameters, config.clip_norm)
        set_learning_rates(self.optimizer, step, self.total_steps, config)
        self.optimizer.step()
        self.average.update(step)

    def _synchronised(self) -> nn.Module:
        """Return the network that averages gradients over ranks; made at the first step, with the restored weights."""
        if self._wrapped is None:
            self._wrapped = self.parallel.wrap(self.network)
        return self._wrapped

    def _seed(self, step: int) -> None:
        """Make dropout a function of (seed, step, rank)."""
        seed = int(np.random.SeedSequence([self.config.seed, step, self.parallel.rank]).generate_state(1)[0])
        # torch.manual_seed would also queue a seed for a CUDA that is not there, with a stack trace: 1 ms
        torch.default_generator.manual_seed(seed)
        if self.parallel.device.type == "cuda":
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def _compilation_explained() -> Iterator[None]:
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"training.compile: torch.compile failed ({reason}); train with compile: false") from error
