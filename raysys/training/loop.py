"""The training loop: plain torch, the same in one process, under Ray Train, in a trial and in a debugger."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from raysys.config import RunConfig
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError, nearest
from raysys.evaluation.evaluate import collect, merge, summarise
from raysys.evaluation.judge import Judge
from raysys.evaluation.protocol import lower_is_better
from raysys.progress import StepBar
from raysys.tasks.multitask import MultiTask
from raysys.training.checkpoint import (
    Position,
    checkpoints,
    load_checkpoint,
    read_position,
    save_checkpoint,
    save_weights,
)
from raysys.training.feed import Feed
from raysys.training.learner import Learner
from raysys.training.memory import keep_memory
from raysys.training.meter import LossMeter
from raysys.training.parallel import Parallel

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
        """Prepare what learns and what it is fed; `on_epoch` is called on every rank after each epoch."""
        self.config, self.directory = config, directory
        self.parallel = parallel or Parallel.current(config.training.gpu)
        if self.parallel.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
        self.on_epoch = on_epoch
        self.show = show and self.parallel.is_first
        reader = ShardReader(dataset, columns=network.recommender.reads_columns, labels=network.reads_labels)
        self.feed = Feed(config, dataset, reader, self.parallel, network.reads_newest, network.reads_tokens)
        self.judge = Judge(dataset, reader, config.evaluation, config.model.max_length, self.parallel.device)
        self.total_steps = len(self.feed.order(0)) * config.training.epochs
        self.learner = Learner(config, network, self.parallel, self.total_steps)
        self.network = self.learner.network
        self.meter = LossMeter(config.tasks, self.parallel.device)
        self.position = Position()
        self.best_metrics: Metrics = {}

    def run(self) -> TrainResult:
        """Train to the end and return the best weights."""
        keep_memory()
        self._restore()
        bar = StepBar(self.total_steps, self.position.step, self.show)
        try:
            while self.position.epoch < self.config.training.epochs and not self.position.stopped:
                self._epoch(bar)
        finally:
            bar.close()
        best = self.directory / "best.safetensors"
        if self.parallel.is_first and self.position.best_metric is None:
            with self.learner.average.applied():
                save_weights(self.network, best)  # nothing was validated: the last weights are the best known
        self.parallel.barrier()
        self.network.load_state_dict(load_file(best))
        return TrainResult(self.network.eval(), self.position, self.best_metrics)

    def _epoch(self, bar: StepBar) -> None:
        position, started, users = self.position, time.perf_counter(), 0
        spent, every = position.seconds, self.config.training.checkpoint_every
        order = self.feed.order(position.epoch)
        rest = order[position.step_in_epoch :]
        self.network.train()
        self.meter.start(position.loss_sums)

        def look() -> None:
            position.loss_sums = self.meter.sums(position.step)
            elapsed = time.perf_counter() - started
            position.seconds = spent + elapsed
            loss = position.loss_sums["loss"] / position.step_in_epoch
            bar.update(position.step, f"epoch {position.epoch + 1} loss {loss:.4f} {users / elapsed:,.0f} users/s")

        with contextlib.closing(self.feed.batches(position.epoch, rest, position.step)) as batches:
            for batch_rows, parts in zip(rest, batches, strict=True):
                self.meter.add(self.learner.step(position.step, parts))
                position.step += 1
                position.step_in_epoch += 1
                users += len(batch_rows)
                if position.step % self.meter.every == 0 or position.step_in_epoch == len(order):
                    look()
                if every and position.step % every == 0 and position.step_in_epoch < len(order):
                    look()
                    self._save()
        metrics = {name: total / len(order) for name, total in position.loss_sums.items()}
        metrics |= self.learner.end_epoch([metrics[f"loss/{task}"] for task in self.config.tasks])
        metrics |= {"users_per_second": users / max(time.perf_counter() - started, 1e-9)}
        self._end_epoch(metrics, bar)

    def _end_epoch(self, metrics: Metrics, bar: StepBar) -> None:
        position = self.position
        position.epoch, position.step_in_epoch, position.loss_sums = position.epoch + 1, 0, {}
        last = position.epoch == self.config.training.epochs
        if position.epoch % self.config.training.evaluate_every == 0 or last:
            with self.learner.average.applied():
                metrics |= self._validate()
        metrics |= {"epoch": position.epoch, "step": position.step, "seconds": position.seconds}
        if self.parallel.is_first:
            self._record(metrics)
        self._save()
        bar.say(describe_epoch(metrics, self.monitor(metrics)))
        if self.on_epoch is not None:
            self.on_epoch(metrics)

    def _validate(self) -> Metrics:
        if not len(self.judge.rows(Split.VALID)):
            return {}
        found = collect(self.judge, self.network, Split.VALID, self.parallel.rank, self.parallel.world_size)
        outcomes = merge(self.parallel.gather(found))
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
            learner = self.learner
            directory = self.directory / "checkpoints"
            save_checkpoint(directory, learner.module, learner.optimizer, learner.average, self.position)

    def _restore(self) -> None:
        self.parallel.barrier()
        found = checkpoints(self.directory / "checkpoints")
        if not found:
            return
        learner = self.learner
        self.position = load_checkpoint(found[-1], learner.module, learner.optimizer, learner.average)
        history = read_history(self.directory)[: self.position.epoch]
        if self.parallel.is_first:  # an epoch recorded after the checkpoint will be recorded again
            partial = self.directory / ".history.jsonl.partial"
            partial.write_text("".join(json.dumps(line) + "\n" for line in history))
            partial.replace(self.directory / "history.jsonl")
        if self.position.best_epoch > 0:
            self.best_metrics = history[self.position.best_epoch - 1]


def read_history(directory: Path, first: int | None = None) -> list[Metrics]:
    """Return the metrics of every epoch of a run so far, or of the first so many."""
    path = directory / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()[:first]] if path.is_file() else []


def read_safe_history(directory: Path) -> list[Metrics]:
    """Return the metrics of the epochs that will not be trained again if the run is interrupted now."""
    found = checkpoints(directory / "checkpoints")
    return read_history(directory, read_position(found[-1]).epoch) if found else []


def describe_epoch(metrics: Metrics, monitored: str | None) -> str:
    """Return one line about an epoch."""
    score = f", {monitored} {metrics[monitored]:.4f}" if monitored in metrics else ""
    return (
        f"epoch {metrics['epoch']:.0f}: loss {metrics['loss']:.4f}{score}, {metrics['users_per_second']:,.0f} users/s"
    )
