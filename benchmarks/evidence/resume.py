"""Kills a training process at random moments, resumes it, and compares the weights, byte for byte. Resumable itself."""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KILLS = 20
CODE = "import json, sys, raysys; raysys.train(json.loads(sys.argv[1]), output=sys.argv[2])"
RESUME = "import sys; from raysys.training.fit import resume; resume(sys.argv[1])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/evidence-resume.json"))
    output = parser.parse_args().output
    rows: list[dict[str, Any]] = json.loads(output.read_text())["rows"] if output.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        node = base_config(root)
        seconds = _train(node, root / "whole")
        expected = (root / "whole" / "model.safetensors").read_bytes()
        for kill in range(len(rows), KILLS):
            moment = random.Random(kill).uniform(0.1, 0.95)
            step = _kill_and_resume(node, root / f"run{kill}", moment * seconds)
            same = (root / f"run{kill}" / "model.safetensors").read_bytes() == expected
            rows.append({"name": f"kill {kill}", "moment": round(moment, 3), "resumed_from_step": step, "same": same})
            print(rows[-1], flush=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps({"rows": rows, "same": sum(row["same"] for row in rows)}, indent=1) + "\n")
    if not all(row["same"] for row in rows):
        sys.exit("a resumed run ended differently")


def base_config(root: Path) -> dict[str, Any]:
    """Ingest a generated log and return the config of a training of some seconds."""
    import raysys

    source = {"format": "synthetic", "num_users": 1500, "num_items": 200, "events_per_user": 15}
    dataset = raysys.ingest({"project": "evidence", "root": str(root), **source})
    return {
        "project": "evidence",
        "root": str(root),
        "dataset": str(dataset.path),
        "model": {"width": 32, "max_length": 12, "dropout": 0.2},
        "tasks": {"next_item": {}, "rating": {}},
        "training": {"epochs": 6, "batch_size": 32, "threads": 1, "checkpoint_every": 7},
        "evaluation": {"resamples": 20},
    }


def _train(node: dict[str, Any], path: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", CODE, json.dumps(node), str(path)], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def _kill_and_resume(node: dict[str, Any], path: Path, after: float) -> int:
    """Kill the run after so many seconds (once it has begun), resume it, and return the step it resumed from."""
    command = [sys.executable, "-c", CODE, json.dumps(node), str(path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        while not (path / "config.yaml").is_file():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    steps = [int(found.name.split("-")[1]) for found in (path / "checkpoints").glob("step-*")]
    if not (path / "run.json").is_file():
        subprocess.run([sys.executable, "-c", RESUME, str(path)], check=True, stderr=subprocess.DEVNULL)
    return max(steps, default=0)


if __name__ == "__main__":
    main()
