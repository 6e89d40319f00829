"""What the scripts of networks on KuaiRand share, in whatever environment: arrays, size of the model, the answer."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

TRAIN, VALID, TEST = 0, 1, 2
LABELS = ("click", "long_view")
BATCH, LEARNING_RATE, DROPOUT = 1024, 1e-3, 0.1
WIDTH, EXPERTS, EXPERT, TOWER = 8, 4, 64, 32
"""Of a field's vector, number of experts, width of one, width of a tower's hidden layer."""
WARM = 5
"""Batches before the clock."""


def options(doc: str) -> argparse.ArgumentParser:
    """Return a parser of what every script is told."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--data", type=Path, required=True, help="arrays of impressions")
    parser.add_argument("--predictions", type=Path, required=True, help="file to write")
    parser.add_argument("--epochs", type=int, required=True)
    return parser


def read(data: Path) -> tuple[dict[str, np.ndarray], dict[str, int], np.ndarray, np.ndarray]:
    """Return the fields, their sizes, the labels [N, 2] and the split; a module cannot have a dot in its name."""
    arrays = np.load(data)
    names = [key.removeprefix("field.") for key in arrays.files if key.startswith("field.")]
    fields = {name.replace(".", "_"): arrays[f"field.{name}"] for name in names}
    sizes = {name.replace(".", "_"): int(arrays[f"size.{name}"]) for name in names}
    return fields, sizes, np.stack([arrays[f"label.{name}"] for name in LABELS], axis=1), arrays["split"]


def scored(part: str, epoch: int, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Name the predictions [N, 2] of a part after an epoch as multitask.py reads them."""
    return {f"{part}.{label}.{epoch}": scores[:, at] for at, label in enumerate(LABELS)}


def answer(peer: str, samples: int, cpu_seconds: float) -> None:
    """Print the JSON object."""
    rate = {"samples": samples, "cpu_seconds": cpu_seconds, "samples_per_cpu_second": samples / cpu_seconds}
    print(json.dumps({"peer": peer, "torch_threads": torch.get_num_threads(), **rate}))
