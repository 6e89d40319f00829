"""Training on a GPU: tokens per second, share of the card's own peak, and 100 epochs of ML-1M. Needs no Ray.

The dataset is an ingested `examples/movielens-1m`, which may have been made on another machine.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peers
import torch
from torch.utils.flop_counter import FlopCounterMode

from raysys.config import RunConfig
from raysys.configfile import build, read_yaml
from raysys.data.dataset import Dataset
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.start import build_network

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "movielens-1m" / "pretrain.yaml"
WARM, TIMED = 40, 40  # lengths differ from step to step: kernels are chosen for each when it comes first
EPOCHS, MOST_SECONDS = 100, 300
Rows = list[dict[str, Any]]

SASREC = {"kind": "sasrec", "num_blocks": 2, "num_heads": 2}
LIGR = {"kind": "ligr", "num_heads": 2, "feedforward_multiple": 2}
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "sasrec 2 x 64, 128 users": ({"width": 64, "backbone": SASREC}, 128),
    "ligr 8 x 64, 32 users": ({"width": 64, "backbone": {**LIGR, "num_blocks": 8}}, 32),
    "hstu 8 x 64, 128 users": ({"width": 64, "backbone": {"kind": "hstu", "num_blocks": 8, "num_heads": 2}}, 128),
    "ligr 8 x 256, 512 users": ({"width": 256, "backbone": {**LIGR, "num_blocks": 8, "num_heads": 4}}, 512),
    "ligr 12 x 1024, 512 users": ({"width": 1024, "backbone": {**LIGR, "num_blocks": 12, "num_heads": 16}}, 512),
}
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
}


def main() -> None:
    options = _options()
    about = {**peers.machine(), "gpu": torch.cuda.get_device_name()}
    dataset = Dataset.open(str(options.dataset))
    peak = _peak()
    rows = [peers.row("bfloat16 matrix product, 8192 x 8192 x 8192", peak, 989.0, "data sheet", "TFLOP/s")]
    for name in options.epochs_of:
        rows.append(_epochs(dataset, name))
        peers.table(rows[-1:])
    for name, way in itertools.product(options.models, options.ways):
        rows += _speed(dataset, name, way, peak)
        peers.table(rows[-4:])
        if options.output:
            peers.write(options.output, rows, about)


def _peak() -> float:
    """Return the TFLOP/s of a large product of random matrices."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = [_timed(lambda: a @ b) for _ in range(12)][2:]
    return 2 * 8192**3 / statistics.median(seconds) / 1e12


def _timed(work: Any) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def _config(dataset: Dataset, model: str, way: Mapping[str, Any], epochs: int) -> RunConfig:
    """Return the example's config with another model and constant learning rate."""
    node = read_yaml(EXAMPLE)
    size, users = MODELS[model]
    node["dataset"] = str(dataset.path)
    node["model"] = {"max_length": 200, "dropout": 0.2, "unit_items": True, **size}
    node["optimizer"] = {"learning_rate": 0.001}
    node["training"] = {"epochs": epochs, "batch_size": users, "gpu": True, "early_stopping": None, **way}
    return build(RunConfig, node, "benchmark")


def _loop(config: RunConfig, dataset: Dataset, folder: str) -> TrainingLoop:
    return TrainingLoop(config, dataset, build_network(config, dataset), Path(folder), show=False)


def _speed(dataset: Dataset, model: str, way: str, peak: float) -> Rows:
    """Return targets per second, and the operations per second beside the card's own peak."""
    config = _config(dataset, model, WAYS[way], EPOCHS)
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        loop = _loop(config, dataset, folder)
        loop.network.train()
        order = [batch for epoch in range(10) for batch in loop.feed.order(epoch)][: WARM + TIMED]
        for step, parts in enumerate(loop.feed.batches(0, order, 0)):
            if step == WARM:
                torch.cuda.synchronize()
                started = time.perf_counter()
            loop.learner.step(step, parts)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    targets = sum(int(loop.feed.lengths[rows].sum()) for rows in order[WARM:])
    memory = torch.cuda.max_memory_allocated() / (1 << 20)
    name = f"{model}, {way}"
    return [
        peers.row(name, targets / seconds, None, "", "targets per second"),
        peers.row(f"{name}: step", seconds / TIMED * 1e3, None, "", "ms"),
        peers.row(f"{name}: memory", memory, None, "", "MB"),
        peers.row(
            f"{name}: work", _operations(dataset, model) * targets / seconds / 1e12, peak, "matrix product", "TFLOP/s"
        ),
    ]


@functools.cache
def _operations(dataset: Dataset, model: str) -> float:
    """Return the floating-point operations of matrix products per target, those on padding included."""
    config = _config(dataset, model, {}, EPOCHS)
    with tempfile.TemporaryDirectory() as folder, FlopCounterMode(display=False) as counter:
        loop = _loop(config, dataset, folder)
        loop.network.train()
        order = loop.feed.order(0)[:4]
        for step, parts in enumerate(loop.feed.batches(0, order, 0)):
            loop.learner.step(step, parts)
    return counter.get_total_flops() / sum(int(loop.feed.lengths[rows].sum()) for rows in order)


def _epochs(dataset: Dataset, model: str) -> dict[str, Any]:
    """Return the seconds of 100 epochs as a user would run them, the validations of every second epoch included."""
    config = _config(dataset, model, WAYS["bfloat16"] | {"evaluate_every": 2}, EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        _loop(config, dataset, folder).run()
        seconds = time.perf_counter() - started
        best = max(line.get("next_item.ndcg@10", 0.0) for line in read_history(Path(folder)))
    name = f"{EPOCHS} epochs of ML-1M, {model} (validation NDCG@10 {best:.4f})"
    return peers.row(name, seconds, MOST_SECONDS, "limit", "seconds", lower_is_better=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True, help="an ingested examples/movielens-1m")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--epochs-of", nargs="*", choices=MODELS, default=[next(iter(MODELS))], help="100 epochs of it")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
