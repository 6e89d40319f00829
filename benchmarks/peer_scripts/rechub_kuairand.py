"""torch-rechub's multi-task models on KuaiRand's impressions: stands alone in its own environment and prints JSON.

Its own trainer and loader; what is timed is `train_one_epoch`, from the end of the warm-up batches on.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE, PLE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

TRAIN, VALID, TEST = 0, 1, 2
LABELS = ("click", "long_view")


class Timed:
    """A loader that knows when the warm-up batches have been trained on, and how many rows came after."""

    def __init__(self, loader: Any, warmup: int) -> None:
        self.loader, self.warmup = loader, warmup
        self.begun, self.rows = 0.0, 0

    def __iter__(self) -> Iterator[Any]:
        for at, batch in enumerate(self.loader):
            if at == self.warmup:
                self.begun, self.rows = time.process_time(), 0
            self.rows += len(batch[1])
            yield batch

    def __len__(self) -> int:
        return len(self.loader)


def read(data: Path) -> tuple[dict[str, np.ndarray], dict[str, int], np.ndarray, np.ndarray]:
    """Return the fields, their sizes, the labels [N, 2] and the split."""
    arrays = np.load(data)
    fields = {key.removeprefix("field."): arrays[key] for key in arrays.files if key.startswith("field.")}
    sizes = {name: int(arrays[f"size.{name}"]) for name in fields}
    # a module cannot have a dot in its name
    named = {name.replace(".", "_"): values for name, values in fields.items()}
    sizes = {name.replace(".", "_"): size for name, size in sizes.items()}
    return named, sizes, np.stack([arrays[f"label.{name}"] for name in LABELS], axis=1), arrays["split"]


def build(args: argparse.Namespace, sizes: dict[str, int]) -> torch.nn.Module:
    """Make the model: experts of one layer, towers of one hidden layer."""
    features = [SparseFeature(name, vocab_size=size, embed_dim=args.width) for name, size in sizes.items()]
    expert = {"dims": [args.expert], "dropout": args.dropout}
    tower = {"dims": [args.tower], "dropout": args.dropout}
    types = ["classification"] * len(LABELS)
    if args.model == "MMOE":
        return MMOE(features, types, args.experts, expert, [tower] * len(LABELS))
    if args.model == "PLE":
        return PLE(features, types, 1, 1, 2, expert, [tower] * len(LABELS))
    bottom = {"dims": [args.expert, args.tower], "dropout": args.dropout}
    return ESMM(features[:1], features[1:], bottom, bottom)


def targets(model: str, labels: np.ndarray) -> np.ndarray:
    """Return what the trainer wants: for ESMM a column for conversions given a click, which it ignores, comes first."""
    return np.concatenate([labels[:, 1:], labels], axis=1) if model == "ESMM" else labels


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="arrays of impressions")
    parser.add_argument("--predictions", type=Path, required=True, help="file to write")
    parser.add_argument("--model", choices=("MMOE", "PLE", "ESMM"), default="MMOE")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--expert", type=int, default=64)
    parser.add_argument("--tower", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=5, help="batches of each epoch that are not timed")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, predict after every epoch, and print one JSON object."""
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    fields, sizes, labels, split = read(args.data)
    model = build(args, sizes)
    wanted = targets(args.model, labels)
    parts = [
        ({name: values[split == part] for name, values in fields.items()}, wanted[split == part]) for part in (0, 1, 2)
    ]
    loaders = DataGenerator(*parts[TRAIN]).generate_dataloader(
        *parts[VALID], *parts[TEST], batch_size=args.batch_size, num_workers=0
    )
    settings = {"lr": args.learning_rate, "weight_decay": 0.0}
    trainer = MTLTrainer(model, ["classification"] * wanted.shape[1], optimizer_params=settings, n_epoch=args.epochs)
    found, rows, seconds = {}, 0, 0.0
    for epoch in range(1, args.epochs + 1):
        timed = Timed(loaders[0], args.warmup)
        trainer.train_one_epoch(timed)
        seconds, rows = seconds + time.process_time() - timed.begun, rows + timed.rows
        for name, loader in (("valid", loaders[1]), ("test", loaders[2])):
            model.eval()
            with torch.no_grad():
                scores = torch.cat([model(fields) for fields, _ in loader])[:, -len(LABELS) :].numpy()
            found |= {f"{name}.{label}.{epoch}": scores[:, at] for at, label in enumerate(LABELS)}
    np.savez(args.predictions, **found)
    rate = {"samples": rows, "cpu_seconds": seconds, "samples_per_cpu_second": rows / seconds}
    print(json.dumps({"peer": f"torch-rechub {args.model}", "torch_threads": torch.get_num_threads(), **rate}))


if __name__ == "__main__":
    main()
