"""Our side of train.py and evaluate.py: the data sets, the model that every peer has too, its training, measured."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FILES = {"amazon-beauty": "amazon-2014/Beauty.txt.gz", "movielens-1m": "movielens-1m/ml-1m.txt.gz"}
VALIDATED = 64  # users: a run always validates, and here that shall not count


def source(name: str) -> Path:
    """Return the file that the peers read, the same that the example's ingestion reads."""
    return Path(os.environ.get("RAYSYS_DATA", "data")).absolute() / FILES[name]


def ingested(name: str, folder: Path) -> Path:
    """Ingest an example's log below a folder and return the dataset."""
    import raysys

    path: Path = raysys.ingest(EXAMPLES / name / "ingest.yaml", folder / name).path
    return path


def settings(
    dataset: Path, loss: Mapping[str, Any], max_length: int = 50, attention_dropout: float = 0.2, epochs: int = 1
) -> dict[str, Any]:
    """Return the run config of the model that the peers train: two blocks, width 64, Adam, batches of 128."""
    backbone = {"kind": "sasrec", "num_blocks": 2, "num_heads": 2, "attention_dropout": attention_dropout}
    return {
        "project": "benchmark",
        "dataset": str(dataset),
        "model": {"width": 64, "max_length": max_length, "dropout": 0.2, "backbone": backbone},
        "tasks": {"next_item": {"loss": dict(loss)}},
        "optimizer": {"kind": "adam", "learning_rate": 0.001},
        "training": {
            "epochs": epochs,
            "evaluate_every": epochs,
            "batch_size": 128,
            "threads": 1,
            "random_windows": False,
            "early_stopping": None,
        },
        "evaluation": {"max_users": VALIDATED},
    }


def trained(
    node: Mapping[str, Any], on_epoch: Callable[[dict[str, float]], None] | None = None, judged: bool = False
) -> dict[str, float]:
    """Train in this process with the library's own loop; the whole of it is on the clock, from an existing model on.

    Targets are counted as the peers count them: each item after a user's first. With `judged`, the test split is
    evaluated afterwards, off the clock.
    """
    import torch

    from raysys.config import RunConfig
    from raysys.configfile import build
    from raysys.data.dataset import Dataset
    from raysys.data.schema import Split
    from raysys.evaluation.evaluate import collect, summarise
    from raysys.evaluation.judge import Judge
    from raysys.training.loop import TrainingLoop
    from raysys.training.start import build_network

    config = build(RunConfig, dict(node), "benchmark")
    dataset = Dataset.open(str(config.dataset))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        network = build_network(config, dataset)
        loop = TrainingLoop(config, dataset, network, Path(folder), on_epoch=on_epoch, show=False)
        cpu, wall = time.process_time(), time.perf_counter()
        result = loop.run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    lengths = dataset.rows["train_tokens"].to_numpy()
    sequences = config.training.epochs * int((lengths > 0).sum())
    tokens = config.training.epochs * int((lengths - 1).clip(0, config.model.max_length).sum())
    found = {
        "sequences": sequences,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "sequences_per_cpu_second": sequences / cpu,
        "tokens_per_cpu_second": tokens / cpu,
        "peak_memory_mb": peak_memory_mb(),
    }
    if judged:
        judge = Judge.of(dataset, config.evaluation, config.model.max_length)
        found |= summarise(collect(judge, result.network, Split.TEST))
    return found


def trained_through_ray(node: Mapping[str, Any]) -> dict[str, float]:
    """Train in one worker process of Ray Train; its own clock runs, so that starting Ray does not count."""
    from raysys import cluster

    with tempfile.TemporaryDirectory(prefix="rs") as folder, cluster.connected():
        import ray.train
        from ray.train.torch import TorchTrainer

        found = Path(folder) / "found.json"
        TorchTrainer(
            _worker,
            train_loop_config={"node": dict(node), "found": str(found)},
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(storage_path=str(Path(folder) / "ray")),
        ).fit()
        result: dict[str, float] = json.loads(found.read_text())
    return result


def _worker(arguments: dict[str, Any]) -> None:
    import ray.train

    found = trained(arguments["node"], on_epoch=ray.train.report)
    Path(arguments["found"]).write_text(json.dumps(found))


def peak_memory_mb() -> float:
    """Return the most memory that this process ever had resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
