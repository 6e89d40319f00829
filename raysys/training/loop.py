"""The training loop: plain torch, the same in one process, under Ray Train, in a trial and in a debugger."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raysys.component import kind_of
from raysys.config import RunConfig
from raysys.data.batches import Batch, ShardReader, make_batch
from raysys.data.dataset import Dataset
from raysys.data.order import plan_epoch, rank_slice
from raysys.data.schema import Split
from raysys.errors import UserError, nearest
from raysys.evaluation.evaluate import Judge, collect, merge, summarise
from raysys.evaluation.protocol import lower_is_better
from raysys.model.adapt import ADAPTS
from raysys.optimizer import build_optimizer, learning_rate_at
from raysys.progress import StepBar
from raysys.tasks.multitask import MultiTask
from raysys.training.average import WeightAverage
from raysys.training.checkpoint import (
    Position,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from raysys.training.gram import task_gram
from raysys.training.parallel import Parallel
from raysys.weighting import WEIGHTINGS

Metrics = dict[str, float]


@dataclass(frozen=True)
class TrainResult:
    """What the loop ends with."""

    network: MultiTask
    position: Position
    metrics: Metrics
    """Validation metrics of the best epoch."""


class TrainingLoop:
    """Trains a model on a dataset, from wherever the newest checkpoint of its directory left off."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        network: MultiTask,
        directory: Path,
        parallel: Parallel | None = None,
        on_epoch: Callable[[Metrics], None] | None = None,
        show: bool = True,
    ) -> None:
        """Prepare optimizer, order and restart position; `on_epoch` is called on every rank after each validation."""
        self.config, self.dataset, self.directory = config, dataset, directory
        self.parallel = parallel or Parallel.current(config.training.gpu)
        self.on_epoch = on_epoch
        self.show = show and self.parallel.is_first
        self.network = network.to(self.parallel.device)
        ADAPTS[kind_of(config.adapt)](config.adapt).apply(self.network.recommender)
        self.weighting = WEIGHTINGS[kind_of(config.weighting)](config.weighting, tuple(config.tasks)).to(
            self.parallel.device
        )
        self.module = nn.ModuleDict({"network": self.network, "weighting": self.weighting})
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            raise UserError(
                f"adapt: {kind_of(config.adapt)}: nothing to train, because {', '.join(config.tasks)} has no head of "
                "its own; use adapt: {kind: full} or add a task such as rating"
            )
        self.optimizer = build_optimizer(self.module, config.optimizer)
        self.average = WeightAverage(self.network, config.training.average_decay)
        self.reader = ShardReader(dataset)
        self.judge = Judge(dataset, self.reader, config.evaluation, config.model.max_length, self.parallel.device)
        self.rows = dataset.rows_with_targets(Split.TRAIN)
        self.lengths = np.minimum(dataset.rows["train_tokens"].to_numpy()[self.rows], config.model.max_length)
        self.shard_of_row = self.reader.shard_of_row[self.rows]
        self.steps_per_epoch = len(self._order(0))
        self.total_steps = self.steps_per_epoch * config.training.epochs
        self.position = Position()
        self.best_metrics: Metrics = {}

    def run(self) -> TrainResult:
        """Train to the end and return the best weights."""
        self._restore()
        ddp = self.parallel.wrap(self.network)
        bar = StepBar(self.total_steps, self.position.step, self.show)
        try:
            while self.position.epoch < self.config.training.epochs and not self.position.stopped:
                self._epoch(ddp, bar)
        finally:
            bar.close()
        best = self.directory / "best.safetensors"
        if self.parallel.is_first and self.position.best_metric is None:
            with self.average.applied():
                save_weights(self.network, best)  # nothing was validated: the last weights are the best known
        self.parallel.barrier()
        self.network.load_state_dict(load_file(best))
        return TrainResult(self.network.eval(), self.position, self.best_metrics)

    def _epoch(self, ddp: nn.Module, bar: StepBar) -> None:
        position, started = self.position, time.perf_counter()
        spent, first_step = position.seconds, position.step_in_epoch
        order, samples = self._order(position.epoch), 0
        self._windows = np.random.default_rng([self.config.seed, position.epoch, 1]).random(len(self.dataset.rows))
        for batch_rows in order[first_step:]:
            losses = self.step(ddp, batch_rows)
            for name, value in losses.items():
                position.loss_sums[name] = position.loss_sums.get(name, 0.0) + value
            position.step += 1
            position.step_in_epoch += 1
            position.seconds = spent + time.perf_counter() - started
            samples += len(batch_rows)
            speed = samples / (time.perf_counter() - started)
            bar.update(position.step, f"epoch {position.epoch + 1} loss {losses['loss']:.4f} {speed:,.0f} users/s")
            every = self.config.training.checkpoint_every
            if every and position.step % every == 0 and position.step_in_epoch < len(order):
                self._save()
        metrics = {name: total / len(order) for name, total in position.loss_sums.items()}
        metrics |= {"users_per_second": samples / max(time.perf_counter() - started, 1e-9)}
        self._end_epoch(metrics, bar)

    def step(self, ddp: nn.Module, batch_rows: np.ndarray) -> Metrics:
        """Take one optimizer step on this rank's share of a global batch; returns losses reduced over ranks."""
        config, step = self.config, self.position.step
        self.network.train()
        seed = int(np.random.SeedSequence([config.seed, step, self.parallel.rank]).generate_state(1)[0])
        torch.manual_seed(seed)
        generator = torch.Generator(self.parallel.device).manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.total_steps, config.optimizer)
        found = ddp(self._batch(batch_rows), generator)
        counts_T = self.parallel.sum(found.counts_T).clamp(min=1)
        means_T = self.parallel.sum(found.totals_T) / counts_T
        # Averaging over ranks divides by the world size, so this rank's share is scaled by it: the gradient of a
        # mean over all valid targets. The value is the reduced mean, so that every rank weighs the same losses.
        local_T = found.totals_T * self.parallel.world_size / counts_T
        losses_T = local_T + (means_T - local_T).detach()
        combined = self.weighting.combine(losses_T, lambda: task_gram(losses_T, found.shared_BLD, self.parallel))
        total = float(combined.total.detach())
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total} at step {step}; try a lower learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        combined.total.backward()  # type: ignore[no-untyped-call]
        if config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), config.optimizer.clip_norm, foreach=True)
        self.optimizer.step()
        self.average.update(step)
        return _named("loss", total, config.tasks, means_T)

    def _batch(self, batch_rows: np.ndarray) -> Batch:
        mine = rank_slice(batch_rows, self.lengths, self.parallel.rank, self.parallel.world_size)
        idle = len(mine) == 0  # fewer users than ranks: this rank takes part with a user that has no targets
        rows = self.reader.rows(self.rows[mine if not idle else batch_rows[:1]])
        split = Split.NONE if idle else Split.TRAIN
        window = self._windows[rows.users] if self.config.training.random_windows else None
        batch = make_batch(rows, split, self.reader.is_history, self.config.model.max_length, window)
        return batch.to(self.parallel.device)

    def _end_epoch(self, metrics: Metrics, bar: StepBar) -> None:
        position = self.position
        position.epoch, position.step_in_epoch, position.loss_sums = position.epoch + 1, 0, {}
        last = position.epoch == self.config.training.epochs
        if position.epoch % self.config.training.evaluate_every == 0 or last:
            with self.average.applied():
                metrics |= self._validate()
        metrics |= {"epoch": position.epoch, "step": position.step, "seconds": position.seconds}
        if self.parallel.is_first:
            self._record(metrics)
        self._save()
        bar.say(describe_epoch(metrics, self.monitor(metrics)))
        if self.on_epoch is not None:
            self.on_epoch(metrics)

    def _validate(self) -> Metrics:
        rows = self.dataset.rows_with_targets(Split.VALID)
        if not len(rows):
            return {}
        mine = rows[self.parallel.rank :: self.parallel.world_size]
        outcomes = merge(self.parallel.gather(collect(self.judge, self.network, Split.VALID, mine)))
        metrics = summarise(outcomes)
        name = self.monitor(metrics)
        if name is not None:
            self._keep_best(metrics, name)
        return metrics

    def monitor(self, metrics: Mapping[str, float]) -> str | None:
        """Return the validation metric that decides which epoch is best, or None before there is any.

        Raises:
            UserError: the configured metric is not measured.
        """
        stopping = self.config.training.early_stopping
        measured = [name for name in metrics if "." in name]
        if stopping is None or stopping.metric is None:
            preferred = [name for name in measured if name.endswith(".ndcg@10")]
            return next(iter(preferred or measured), None)
        if measured and stopping.metric not in metrics:
            raise UserError(
                f"training.early_stopping.metric: {stopping.metric!r} is not measured"
                f"{nearest(stopping.metric, measured)} (there are: {', '.join(measured)})"
            )
        return stopping.metric if measured else None

    def _keep_best(self, metrics: Metrics, name: str) -> None:
        position, stopping = self.position, self.config.training.early_stopping
        sign = -1.0 if lower_is_better(name) else 1.0
        unmeasured = position.best_metric is None or math.isnan(position.best_metric)
        if unmeasured or sign * metrics[name] > sign * (position.best_metric or 0.0):
            position.best_metric, position.best_epoch, position.stale = metrics[name], position.epoch, 0
            self.best_metrics = dict(metrics)
            if self.parallel.is_first:
                save_weights(self.network, self.directory / "best.safetensors")
        else:
            position.stale += 1
        position.stopped = stopping is not None and position.stale >= stopping.patience

    def _record(self, metrics: Metrics) -> None:
        with (self.directory / "history.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def _save(self) -> None:
        if self.parallel.is_first:
            save_checkpoint(self.directory / "checkpoints", self.module, self.optimizer, self.average, self.position)

    def _restore(self) -> None:
        self.parallel.barrier()
        found = checkpoints(self.directory / "checkpoints")
        if not found:
            return
        self.position = load_checkpoint(found[-1], self.module, self.optimizer, self.average)
        history = read_history(self.directory)[: self.position.epoch]
        if self.parallel.is_first:  # an epoch recorded after the checkpoint will be recorded again
            (self.directory / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
        if self.position.best_epoch > 0:
            self.best_metrics = history[self.position.best_epoch - 1]

    def _order(self, epoch: int) -> list[np.ndarray]:
        return plan_epoch(self.lengths, self.shard_of_row, self.config.seed, epoch, self.config.training.batch_size)


def read_history(directory: Path) -> list[Metrics]:
    """Return the metrics of every epoch of a run so far."""
    path = directory / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def describe_epoch(metrics: Metrics, monitored: str | None) -> str:
    """Return one line about an epoch."""
    score = f", {monitored} {metrics[monitored]:.4f}" if monitored in metrics else ""
    return (
        f"epoch {metrics['epoch']:.0f}: loss {metrics['loss']:.4f}{score}, {metrics['users_per_second']:,.0f} users/s"
    )


def _named(total_name: str, total: float, tasks: Mapping[str, object], means_T: Tensor) -> Metrics:
    return {total_name: total, **{f"loss/{name}": value for name, value in zip(tasks, means_T.tolist(), strict=True)}}
