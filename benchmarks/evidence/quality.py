"""Trains the published protocols' data sets with the examples' configs, several seeds each, one process per core.

Resumable: finished runs are kept under --root and unfinished ones go on from their checkpoints; what the output file
holds for the same config already is not done again. `make results` turns the figures into docs/results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import peers
import torch

from raysys.config import RunConfig
from raysys.configfile import build, read_yaml
from raysys.tasks.losses import fast_precision

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIGS = {
    "amazon-beauty": ("amazon-beauty", "pretrain"),
    "amazon-beauty-text": ("amazon-beauty", "pretrain-text"),
    "amazon-beauty-text-gpu": ("amazon-beauty", "pretrain-text-gpu"),
    "amazon-toys": ("amazon-toys", "pretrain"),
    "amazon-toys-text": ("amazon-toys", "pretrain-text"),
    "movielens-1m": ("movielens-1m", "pretrain"),
    "movielens-1m-gpu": ("movielens-1m", "pretrain-gpu"),
}
"""Folder of an example and the config of its runs."""
HERE = [name for name in CONFIGS if torch.cuda.is_available() or not name.endswith("-gpu")]
OUTPUT = Path("benchmarks/results/evidence-quality.json")
CURVE_POINTS = 60


def main() -> None:
    options = _options()
    wanted = [(name, seed) for seed in options.seeds for name in options.configs]
    done = {(row["example"], row["seed"]): row["config_digest"] for row in recorded(options.output)}
    todo = [(name, seed) for name, seed in wanted if done.get((name, seed)) != digest(name)]
    for folder in dict.fromkeys(CONFIGS[name][0] for name, _ in todo):
        ingest(folder, options.root)
    with ThreadPoolExecutor(options.processes) as pool:
        for job in as_completed([pool.submit(train, name, seed, options.root) for name, seed in todo]):
            row = job.result()
            print(f"{row['example']} seed {row['seed']}: {row['test']}", flush=True)
            rows = {(each["example"], each["seed"]): each for each in [*recorded(options.output), row]}
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({"rows": [rows[key] for key in sorted(rows)]}, indent=1) + "\n")


def recorded(output: Path) -> list[dict[str, Any]]:
    """Return what is recorded so far, by this process and others."""
    return json.loads(output.read_text())["rows"] if output.is_file() else []


def digest(name: str) -> str:
    """Return what tells one config of an example from another: both of its files."""
    folder, config = CONFIGS[name]
    texts = [(EXAMPLES / folder / f"{stem}.yaml").read_bytes() for stem in ("ingest", config)]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


def train(name: str, seed: int, root: Path) -> dict[str, Any]:
    """Train and evaluate one seed in a process of its own; returns its row of the report."""
    run = root / "quality" / f"{name}-{digest(name)}-seed{seed}"
    folder, stem = CONFIGS[name]
    config = EXAMPLES / folder / f"{stem}.yaml"
    if not (run / "run.json").is_file():
        run_alone(train_command(config, run, seed, root), root / f"{run.name}.log")
    record = json.loads((run / "run.json").read_text())
    reports = {report["split"]: report for report in json.loads((run / "report.json").read_text())}
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return {
        "example": name,
        "seed": seed,
        "machine": _machine(torch.device("cuda" if name.endswith("-gpu") else "cpu")),
        "files": [f"examples/{folder}/{file}.yaml" for file in ("ingest", stem)],
        "config_digest": digest(name),
        "config": _sparse(config),
        "valid": _metrics(reports["valid"]["metrics"]),
        "test": _metrics(reports["test"]["metrics"]),
        "baselines": {kind: _metrics(found) for kind, found in reports["test"]["baselines"].items()},
        "slices": {part: _metrics(found) for part, found in reports["test"].get("slices", {}).items()},
        "users": next(iter(reports["test"]["metrics"].values()))["count"],
        "epochs": record["epochs"],
        "best_epoch": record["best_epoch"],
        "parameters": record["parameters"],
        "training_seconds": round(history[-1]["seconds"], 1),
        "curve": _curve(history),
    }


def train_command(config: Path, run: Path, seed: int, root: Path) -> list[str]:
    """Return the command that trains a run, or goes on with it where it began already."""
    command = [sys.executable, "-m", "raysys", "train"]
    if (run / "config.yaml").is_file():
        return [*command, "--resume", str(run)]
    return [*command, str(config), "--root", str(root), "-o", str(run), "--set", f"seed={seed}"]


def _machine(device: torch.device) -> dict[str, Any]:
    """Describe where a run trains, and what `precision: auto` means there."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {**peers.machine(), **gpu, "precision": str(fast_precision(device)).removeprefix("torch.")}


def _metrics(found: dict[str, Any]) -> dict[str, Any]:
    """Keep recall and NDCG at 10, whatever the task is called."""
    return {name.rpartition(".")[2]: value for name, value in found.items() if name.endswith(("ndcg@10", "recall@10"))}


def _curve(history: list[dict[str, float]]) -> list[list[float]]:
    """Return (epoch, loss, validation NDCG@10) of the validated epochs, thinned."""
    points = [
        [line["epoch"], round(line["loss"], 4), round(value, 5)]
        for line in history
        for name, value in line.items()
        if name.endswith(".ndcg@10")
    ]
    step = max(1, len(points) // CURVE_POINTS)
    return points[::step]


def _sparse(path: Path) -> dict[str, Any]:
    node = read_yaml(path)
    build(RunConfig, node, str(path))
    return node


def ingest(folder: str, root: Path) -> None:
    """Ingest an example's log below a root, where that has not been done."""
    if not (root / "datasets" / folder).is_dir():
        config = str(EXAMPLES / folder / "ingest.yaml")
        subprocess.run([sys.executable, "-m", "raysys", "ingest", config, "--root", str(root)], check=True)


def run_alone(command: list[str], log: Path) -> None:
    """Run a command with one thread."""
    env = {**os.environ, **peers.ONE_THREAD}
    with log.open("w") as file:
        done = subprocess.run(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", default=HERE, choices=HERE)
    return run_options(parser, [0, 1, 2], OUTPUT)


def run_options(parser: argparse.ArgumentParser, seeds: list[int], output: Path) -> argparse.Namespace:
    """Read the command line: what a script adds, and what all that train several seeds are told."""
    parser.add_argument("--seeds", nargs="+", type=int, default=seeds)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--root", type=Path, default=Path("store"), help="where datasets and runs are kept")
    parser.add_argument("-o", "--output", type=Path, default=output)
    return parser.parse_args()


if __name__ == "__main__":
    main()
