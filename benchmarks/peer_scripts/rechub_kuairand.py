"""torch-rechub's multi-task models on KuaiRand's impressions: stands alone in its own environment and prints JSON.

Its own trainer and loader; what is timed is `train_one_epoch`, from the end of the warm-up batches on.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from _kuairand import (
    BATCH,
    DROPOUT,
    EXPERT,
    EXPERTS,
    LABELS,
    LEARNING_RATE,
    TEST,
    TOWER,
    TRAIN,
    VALID,
    WARM,
    WIDTH,
    answer,
    options,
    read,
    scored,
)
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE, PLE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator


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


def build(kind: str, sizes: dict[str, int]) -> torch.nn.Module:
    """Make the model: experts of one layer, towers of one hidden layer."""
    features = [SparseFeature(name, vocab_size=size, embed_dim=WIDTH) for name, size in sizes.items()]
    expert, tower = ({"dims": [width], "dropout": DROPOUT} for width in (EXPERT, TOWER))
    types = ["classification"] * len(LABELS)
    if kind == "MMOE":
        return MMOE(features, types, EXPERTS, expert, [tower] * len(LABELS))
    if kind == "PLE":
        return PLE(features, types, 1, 1, 2, expert, [tower] * len(LABELS))
    bottom = {"dims": [EXPERT, TOWER], "dropout": DROPOUT}
    return ESMM(features[:1], features[1:], bottom, bottom)


def targets(model: str, labels: np.ndarray) -> np.ndarray:
    """Return what the trainer wants: for ESMM a column for conversions given a click, which it ignores, comes first."""
    return np.concatenate([labels[:, 1:], labels], axis=1) if model == "ESMM" else labels


def main() -> None:
    """Train, predict after every epoch, and print one JSON object."""
    parser = options(__doc__)
    parser.add_argument("--model", choices=("MMOE", "PLE", "ESMM"), required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fields, sizes, labels, split = read(args.data)
    model = build(args.model, sizes)
    wanted = targets(args.model, labels)
    parts = [
        ({name: values[split == part] for name, values in fields.items()}, wanted[split == part])
        for part in (TRAIN, VALID, TEST)
    ]
    loaders = DataGenerator(*parts[TRAIN]).generate_dataloader(
        *parts[VALID], *parts[TEST], batch_size=BATCH, num_workers=0
    )
    settings = {"lr": LEARNING_RATE, "weight_decay": 0.0}
    trainer = MTLTrainer(model, ["classification"] * wanted.shape[1], optimizer_params=settings, n_epoch=args.epochs)
    found, rows, seconds = {}, 0, 0.0
    for epoch in range(1, args.epochs + 1):
        timed = Timed(loaders[0], WARM)
        trainer.train_one_epoch(timed)
        seconds, rows = seconds + time.process_time() - timed.begun, rows + timed.rows
        for name, loader in (("valid", loaders[1]), ("test", loaders[2])):
            model.eval()
            with torch.no_grad():
                scores = torch.cat([model(fields) for fields, _ in loader])[:, -len(LABELS) :].numpy()
            found |= scored(name, epoch, scores)
    np.savez(args.predictions, **found)
    answer(f"torch-rechub {args.model}", rows, seconds)


if __name__ == "__main__":
    main()
