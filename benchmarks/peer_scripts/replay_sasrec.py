"""RePlay's SASRec (its new API), measured: stands alone in the peer's own environment and prints JSON on its last line.

Leave-one-out: training sees all but each user's last two items.
"""

import argparse
import gzip
import json
import logging
import resource
import tempfile
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
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")

import lightning  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from replay.data import FeatureHint, FeatureSource, FeatureType  # noqa: E402
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema  # noqa: E402
from replay.nn.lightning import LightningModule  # noqa: E402
from replay.nn.lightning.optimizer import OptimizerFactory  # noqa: E402
from replay.nn.loss import BCE, CE, BCESampled, CESampled  # noqa: E402
from replay.nn.sequential import LengthBucketedQueryEncoder, SasRec  # noqa: E402
from replay.nn.transform import UniformNegativeSamplingTransform  # noqa: E402
from replay.nn.transform.template import make_default_sasrec_transforms  # noqa: E402

IMPORTED = Clock.now()
ITEM = "item_id"
LOSSES = {"CE": CE, "BCE": BCE, "CESampled": CESampled, "BCESampled": BCESampled}


class Meter(lightning.Callback):
    """Counts sequences and real targets and their seconds, from the end of the warm-up batches on."""

    def __init__(self, warmup: int, cpu_limit: float | None) -> None:
        self.warmup = warmup
        self.cpu_limit = cpu_limit
        self.steps = self.sequences = self.tokens = 0
        self.started = self.warm = self.last = Clock(0.0, 0.0)
        self.losses: list[float] = []

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.started = self.warm = self.last = Clock.now()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.steps += 1
        self.last = Clock.now()
        self.losses.append(float(outputs["loss"]))
        if self.steps <= self.warmup:
            self.warm = self.last
            return
        self.sequences += len(batch["padding_mask"])
        self.tokens += int(torch.count_nonzero(batch["target_padding_mask"]))
        if self.cpu_limit is not None and self.last.cpu - self.started.cpu >= self.cpu_limit:
            trainer.should_stop = True

    def report(self) -> dict[str, Any]:
        """Return the rates after warm-up, and what the whole of training took."""
        if self.steps <= self.warmup:
            raise SystemExit(f"{self.steps} batches ran, {self.warmup} of them warm-up: raise --epochs or --seconds")
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
            "loss": {"first": self.losses[0], "last": self.losses[-1]},
        }


def read(path: Path) -> dict[int, list[int]]:
    """Read `user item item ...` lines, or `user item` pairs in order, gzipped or plain; the last two items go."""
    sequences: dict[int, list[int]] = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            user, *items = map(int, line.split())
            sequences.setdefault(user, []).extend(items)
    return {user: items[:-2] for user, items in sequences.items() if len(items) >= 3}


def encode(sequences: dict[int, list[int]], path: Path) -> int:
    """Write the sequences with items as 0, 1, ... and return how many items there are."""
    number: dict[int, int] = {}
    encoded = [[number.setdefault(item, len(number)) for item in items] for items in sequences.values()]
    pq.write_table(pa.table({"user_id": list(range(len(encoded))), ITEM: encoded}), path)
    return len(number)


def build(args: argparse.Namespace, num_items: int) -> tuple[LightningModule, TensorSchema]:
    """Make the model: RePlay's own SASRec, with another loss where one is asked for."""
    feature = TensorFeatureInfo(
        ITEM,
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=args.width,
        padding_value=num_items,
        cardinality=num_items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
    )
    schema = TensorSchema([feature])
    model = SasRec.from_params(
        schema=schema,
        embedding_dim=args.width,
        num_heads=args.heads,
        num_blocks=args.blocks,
        max_sequence_length=args.max_length,
        dropout=args.dropout,  # attention dropout too
    )
    if args.loss != "CE":
        settings = {"ignore_index": num_items} if args.loss == "CESampled" else {}
        model.loss = LOSSES[args.loss](**settings)
        model.loss.logits_callback = model.get_logits
    if args.bucket_size:
        model.body.encoder = LengthBucketedQueryEncoder(model.body.encoder, args.bucket_size)
    optimizer = OptimizerFactory(optimizer="adam", learning_rate=args.learning_rate)
    return LightningModule(model, optimizer_factory=optimizer), schema


def load(args: argparse.Namespace, path: Path, schema: TensorSchema, num_items: int) -> ParquetModule:
    """Make the batches; the losses that sample share one draw of negatives over the batch, as RePlay's examples do."""
    transforms = {"train": make_default_sasrec_transforms(schema)["train"]}
    if args.loss.endswith("Sampled"):
        transforms["train"].append(UniformNegativeSamplingTransform(num_items, args.negatives))
    columns = {"user_id": {}, ITEM: {"shape": args.max_length + 1, "padding": num_items}}  # inputs and their successors
    return ParquetModule(
        batch_size=args.batch_size, metadata={"train": columns}, transforms=transforms, train_path=str(path)
    )


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
    parser.add_argument("--loss", choices=tuple(LOSSES), default="CE")
    parser.add_argument("--negatives", type=int, default=256, help="per batch, for the losses that sample")
    parser.add_argument(
        "--bucket-size", type=int, default=0, help="encode so many rows of like length together; 0: all"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after so many CPU-seconds of training")
    parser.add_argument("--warmup", type=int, default=3, help="batches before the rates are measured")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, measure, and print one JSON object."""
    args = parse()
    torch.set_num_threads(1)
    lightning.seed_everything(args.seed)
    begun = Clock.now()
    meter = Meter(args.warmup, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.parquet"
        num_items = encode(read(args.data), path)
        module, schema = build(args, num_items)
        batches = load(args, path, schema, num_items)
        prepared = Clock.now().since(begun)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=args.epochs,
            callbacks=[meter],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=batches)
    result = {
        "peer": "RePlay",
        "settings": {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()},
        **meter.report(),
        "imports": IMPORTED.since(STARTED),
        "preparation": prepared,
        "peak_memory_mb": peak_memory_mb(),
        "torch_threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
