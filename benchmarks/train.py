"""Training SASRec with full softmax on Amazon Beauty: ours beside RecTools, CPU-seconds, one thread, same run."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peers

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PEER = "RecTools 0.19"
SAME_MODEL = {
    "model": {
        "width": 64,
        "max_length": 50,
        "dropout": 0.2,
        "backbone": {"kind": "sasrec", "num_blocks": 2, "num_heads": 2, "attention_dropout": 0.2},
    },
    "tasks": {"next_item": {"precision": "bfloat16"}},
    "optimizer": {"learning_rate": 0.001},
    "training": {"epochs": 1, "batch_size": 128, "threads": 1, "random_windows": False, "early_stopping": None},
}
WITHOUT_ATTENTION_DROPOUT = {
    **SAME_MODEL,
    "model": {**SAME_MODEL["model"], "backbone": {"kind": "sasrec", "num_blocks": 2, "num_heads": 2}},
}


def main() -> None:
    options = _options()
    if options.measure is not None:
        print(json.dumps(_measure(json.loads(options.measure), options.dataset)))
        return
    about = peers.machine()
    with tempfile.TemporaryDirectory() as folder:
        dataset = _ingest(Path(folder))
        rows = _compare(dataset, peer_seconds=45 if options.quick else 150)
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _compare(dataset: Path, peer_seconds: int) -> list[dict[str, Any]]:
    python = peers.environment("rectools", peers.REQUIREMENTS["rectools"])
    script = peers.SCRIPTS / "rectools_sasrec.py"
    beauty = Path(os.environ.get("RAYSYS_DATA", "data")) / "amazon-2014" / "Beauty.txt.gz"
    arguments = ["--data", str(beauty), "--seconds", str(peer_seconds)]
    rate = "sequences_per_cpu_second"
    rows = []
    for note, variables in (("", None), (", allocator keeps memory", peers.KEEP_MEMORY)):
        ours = _run_ours(SAME_MODEL, dataset, variables)
        fast = _run_ours(WITHOUT_ATTENTION_DROPOUT, dataset, variables)
        theirs = peers.run_peer(python, script, arguments, variables=variables)
        unit = "sequences per CPU-second"
        rows += [
            peers.row(f"full softmax, Beauty{note}", ours[rate], theirs[rate], PEER, unit),
            peers.row(f"same, ours without attention dropout{note}", fast[rate], theirs[rate], PEER, unit),
            peers.row(f"peak memory{note}", ours["peak_mb"], theirs["peak_memory_mb"], PEER, "MB", True),
        ]
    trained = _run_ours(_example(), dataset, None)
    theirs = peers.run_peer(python, script, [*arguments[:2], "--seconds", "90", "--evaluate"])
    cpu = f"NDCG@10 on test after {trained['cpu_seconds']:.0f} CPU-s (peer: 90)"
    return [*rows, peers.row(cpu, trained["ndcg@10"], theirs["evaluation"]["ndcg@10"], PEER, "NDCG@10")]


def _example() -> dict[str, Any]:
    from raysys.configfile import read_yaml

    return read_yaml(EXAMPLES / "amazon-beauty" / "pretrain.yaml")


def _ingest(folder: Path) -> Path:
    import raysys

    return raysys.ingest(EXAMPLES / "amazon-beauty" / "ingest.yaml", folder / "beauty").path


def _run_ours(node: dict[str, Any], dataset: Path, variables: dict[str, str] | None) -> dict[str, float]:
    """Measure in a fresh process, with the same variables as the peer."""
    command = [sys.executable, __file__, "--measure", json.dumps(node), "--dataset", str(dataset)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **(variables or {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(node: dict[str, Any], dataset_path: str) -> dict[str, float]:
    """Train with the library's own loop, validation and checkpoints included where the config asks for them."""
    import torch

    from raysys.config import RunConfig
    from raysys.configfile import build
    from raysys.data.dataset import Dataset
    from raysys.data.schema import Split
    from raysys.evaluation.evaluate import Judge, evaluate
    from raysys.training.loop import TrainingLoop
    from raysys.training.start import build_network

    config = build(RunConfig, {"project": "benchmark", "dataset": dataset_path, **node}, "benchmark")
    dataset = Dataset.open(dataset_path)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        loop = TrainingLoop(config, dataset, build_network(config, dataset), Path(folder), show=False)
        steps = _timed(loop)
        before = time.process_time()
        result = loop.run()
        cpu = time.process_time() - before
    rate = sum(size for size, _ in steps) / sum(seconds for _, seconds in steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"sequences_per_cpu_second": rate, "cpu_seconds": cpu, "peak_mb": peak}
    if config.training.epochs > 1:
        report = evaluate(Judge.of(dataset, config.evaluation, config.model.max_length), result.network, Split.TEST)
        found |= {name.removeprefix("next_item."): value.mean for name, value in report.metrics.items()}
    return found


def _timed(loop: Any) -> list[tuple[int, float]]:
    """Note (sequences, CPU-seconds) of every step: batch, forward, backward and optimizer, without validation."""
    steps: list[tuple[int, float]] = []
    inner = loop.step

    def step(module: Any, rows: Any) -> Any:
        before = time.process_time()
        losses = inner(module, rows)
        steps.append((len(rows), time.process_time() - before))
        return losses

    loop.step = step
    return steps


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="give the peer less time: under 8 minutes in all")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--dataset", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
