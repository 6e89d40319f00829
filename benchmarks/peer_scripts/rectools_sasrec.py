"""RecTools' SASRec, measured: stands alone in the peer's own environment and prints JSON on its last line.

Leave-one-out: training sees all but each user's last two items; the last one is the test item.
"""

import argparse
import gzip
import json
import logging
import math
import resource
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Clock:
    """A moment: CPU-seconds of this process and its children, and wall seconds."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Clock":
        """Read both clocks."""
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(sum(usage.ru_utime + usage.ru_stime for usage in usages), time.monotonic())

    def since(self, earlier: "Clock") -> dict[str, float]:
        """Return the seconds between two moments."""
        return {"cpu_seconds": self.cpu - earlier.cpu, "wall_seconds": self.wall - earlier.wall}


STARTED = Clock.now()
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytorch_lightning as lightning  # noqa: E402
import torch  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import SASRecModel  # noqa: E402

IMPORTED = Clock.now()


class Meter(lightning.Callback):
    """Counts sequences and real targets and their seconds, from the end of the warm-up batches on."""

    def __init__(self, warmup: int, cpu_limit: float | None) -> None:
        self.warmup = warmup
        self.cpu_limit = cpu_limit
        self.steps = self.sequences = self.tokens = 0
        self.started = self.warm = self.last = Clock(0.0, 0.0)
        self.epochs: list[dict[str, float]] = []

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.started = self.warm = self.last = Clock.now()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.steps += 1
        self.last = Clock.now()
        if self.steps <= self.warmup:
            self.warm = self.last
            return
        self.sequences += len(batch["x"])
        self.tokens += int(torch.count_nonzero(batch["y"]))
        if self.cpu_limit is not None and self.last.cpu - self.started.cpu >= self.cpu_limit:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("train_loss", math.nan))
        self.epochs.append({"loss": loss, "steps": self.steps, **Clock.now().since(self.started)})

    def report(self) -> dict[str, Any]:
        """Return the rates after warm-up, and what the whole of training took."""
        if self.steps <= self.warmup:
            raise SystemExit(f"{self.steps} batches ran, {self.warmup} of them warm-up: raise --max-steps or --seconds")
        measured = self.last.since(self.warm)
        return {
            "sequences_per_cpu_second": self.sequences / measured["cpu_seconds"],
            "tokens_per_cpu_second": self.tokens / measured["cpu_seconds"],
            "sequences_per_second": self.sequences / measured["wall_seconds"],
            "measured": {
                "steps": self.steps - self.warmup,
                "sequences": self.sequences,
                "tokens": self.tokens,
                **measured,
            },
            "training": {"steps": self.steps, **self.last.since(self.started)},
            "epochs": self.epochs,
        }


def read(path: Path) -> dict[int, list[int]]:
    """Read `user item item ...` lines, or `user item` pairs in order, gzipped or plain."""
    sequences: dict[int, list[int]] = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            user, *items = map(int, line.split())
            sequences.setdefault(user, []).extend(items)
    return {user: items for user, items in sequences.items() if len(items) >= 3}


def construct(sequences: dict[int, list[int]], hold_out: int) -> Dataset:
    """Make a RecTools dataset of all but each user's last items; the position stands for the time."""
    kept = {user: items[:-hold_out] for user, items in sequences.items()}
    lengths = [len(items) for items in kept.values()]
    positions = np.concatenate([np.arange(length) for length in lengths])
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(list(kept), lengths),
            Columns.Item: np.concatenate(list(kept.values())),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(positions, unit="s"),
        }
    )
    return Dataset.construct(frame)


def build(args: argparse.Namespace, meter: Meter) -> SASRecModel:
    """Make the model with a quiet trainer on the CPU."""

    def trainer() -> lightning.Trainer:
        return lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=args.epochs,
            max_steps=args.max_steps,
            callbacks=[meter],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    return SASRecModel(
        n_blocks=args.blocks,
        n_heads=args.heads,
        n_factors=args.width,
        dropout_rate=args.dropout,  # attention dropout too
        session_max_len=args.max_length,
        batch_size=args.batch_size,
        lr=args.learning_rate,
        loss=args.loss,
        n_negatives=args.negatives,
        similarity_module_kwargs={"distance": "dot"},
        recommend_torch_device="cpu",
        get_trainer_func=trainer,
    )


def evaluate(model: SASRecModel, sequences: dict[int, list[int]], k: int = 10) -> dict[str, float]:
    """Rank the whole catalogue for the test item, seen items left out; an item unknown to training is a miss."""
    history = construct(sequences, hold_out=1)
    targets = pd.Series({user: items[-1] for user, items in sequences.items()})
    begun = Clock.now()
    ranked = model.recommend(users=targets.index.to_numpy(), dataset=history, k=k, filter_viewed=True)
    spent = Clock.now().since(begun)
    hits = ranked[ranked[Columns.Item].to_numpy() == targets.loc[ranked[Columns.User]].to_numpy()]
    gains = 1.0 / np.log2(hits[Columns.Rank].to_numpy() + 1.0)
    num_users = len(targets)
    return {"users": num_users, f"recall@{k}": len(hits) / num_users, f"ndcg@{k}": gains.sum() / num_users, **spent}


def peak_memory_mb() -> float:
    """Return the peak resident set; getrusage's would include that of the process that started this one."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="`user item item ...` lines, gzipped or plain")
    parser.add_argument("--max-length", type=int, default=50)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--loss", choices=("softmax", "BCE", "gBCE", "sampled_softmax"), default="softmax")
    parser.add_argument("--negatives", type=int, default=1, help="per target, for the losses that sample")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after so many batches, warm-up included")
    parser.add_argument("--seconds", type=float, help="stop after so many CPU-seconds of training")
    parser.add_argument("--warmup", type=int, default=3, help="batches before the rates are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="NDCG@10 and Recall@10 on the test items")
    return parser.parse_args()


def main() -> None:
    """Train, measure, and print one JSON object."""
    args = parse()
    torch.set_num_threads(1)
    lightning.seed_everything(args.seed)
    begun = Clock.now()
    sequences = read(args.data)
    dataset = construct(sequences, hold_out=2)
    model = build(args, Meter(args.warmup, args.seconds))
    fitting = Clock.now()
    model.fit(dataset)
    meter = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, Meter))  # fit copies it
    prepared = {name: fitting.since(begun)[name] + meter.started.since(fitting)[name] for name in fitting.since(begun)}
    result = {
        "peer": "RecTools",
        "settings": {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()},
        **meter.report(),
        "imports": IMPORTED.since(STARTED),
        "preparation": prepared,
        "peak_memory_mb": peak_memory_mb(),
        "torch_threads": torch.get_num_threads(),
    }
    if args.evaluate:
        result["evaluation"] = evaluate(model, sequences)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
