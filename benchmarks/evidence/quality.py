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
    "amazon-toys": ("amazon-toys", "pretrain"),
    "amazon-toys-text": ("amazon-toys", "pretrain-text"),
    "movielens-1m": ("movielens-1m", "pretrain"),
}
"""Folder of an example and the config of its runs."""
OUTPUT = Path("benchmarks/results/evidence-quality.json")
CURVE_POINTS = 60


def main() -> None:
    options = _options()
    report = json.loads(options.output.read_text()) if options.output.is_file() else {"rows": []}
    wanted = [(name, seed) for seed in options.seeds for name in options.configs]
    done = {(row["example"], row["seed"]): row["config_digest"] for row in report["rows"]}
    todo = [(name, seed) for name, seed in wanted if done.get((name, seed)) != digest(name)]
    for folder in dict.fromkeys(CONFIGS[name][0] for name, _ in todo):
        _ingest(folder, options.root)
    with ThreadPoolExecutor(options.processes) as pool:
        for job in as_completed([pool.submit(train, name, seed, options.root) for name, seed in todo]):
            row = job.result()
            print(f"{row['example']} seed {row['seed']}: {row['test']}", flush=True)
            others = [old for old in report["rows"] if (old["example"], old["seed"]) != (row["example"], row["seed"])]
            rows = sorted([*others, row], key=lambda each: (each["example"], each["seed"]))
            report = {"rows": rows}
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(report, indent=1) + "\n")


def digest(name: str) -> str:
    """Return what tells one config of an example from another: both of its files."""
    folder, config = CONFIGS[name]
    texts = [(EXAMPLES / folder / f"{stem}.yaml").read_bytes() for stem in ("ingest", config)]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


def train(name: str, seed: int, root: Path) -> dict[str, Any]:
    """Train and evaluate one seed in a process of its own; returns its row of the report."""
    run = root / "quality" / f"{name}-{digest(name)}-seed{seed}"
    command, (folder, stem) = [sys.executable, "-m", "raysys", "train"], CONFIGS[name]
    config = EXAMPLES / folder / f"{stem}.yaml"
    fresh = [str(config), "--root", str(root), "-o", str(run), "--set", f"seed={seed}"]
    if not (run / "run.json").is_file():
        part = ["--resume", str(run)] if (run / "config.yaml").is_file() else fresh
        _alone([*command, *part], root / f"{run.name}.log")
    record = json.loads((run / "run.json").read_text())
    reports = {report["split"]: report for report in json.loads((run / "report.json").read_text())}
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return {
        "example": name,
        "seed": seed,
        "machine": {**peers.machine(), "precision": str(fast_precision(torch.device("cpu"))).removeprefix("torch.")},
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


def _ingest(folder: str, root: Path) -> None:
    if not (root / "datasets" / folder).is_dir():
        config = str(EXAMPLES / folder / "ingest.yaml")
        subprocess.run([sys.executable, "-m", "raysys", "ingest", config, "--root", str(root)], check=True)


def _alone(command: list[str], log: Path) -> None:
    """Run a command with one thread."""
    env = {**os.environ, **peers.ONE_THREAD}
    with log.open("w") as file:
        done = subprocess.run(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=CONFIGS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--root", type=Path, default=Path("store"), help="where datasets and runs are kept")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
