"""Kills a search at random moments, resumes it, and compares its trials with those of an undisturbed one. Resumable.

Each search is a process with a Ray of its own, killed with everything it started; a search may be killed twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from resume import base_config

KILLS = 5
TRIALS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/evidence-tune_kills.json"))
    output = parser.parse_args().output
    rows: list[dict[str, Any]] = json.loads(output.read_text())["rows"] if output.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = _config(root)
        assert _wait(_started([str(config), "-o", str(root / "whole")])) == 0, "the undisturbed search failed"
        expected, moments = trials(root / "whole"), _moments(root / "whole")
        for kill in range(len(rows), KILLS):
            rows.append(_killed(config, root / f"study{kill}", random.Random(kill), moments, expected))
            print(rows[-1], flush=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps({"rows": rows, "same": sum(row["same"] for row in rows)}, indent=1) + "\n")
    if not all(row["same"] for row in rows):
        sys.exit("a resumed search ended differently")


def _config(root: Path) -> Path:
    """Ingest a generated log and write a search of some seconds a trial."""
    base = {**base_config(root), "training": {"epochs": 6, "batch_size": 32, "threads": 1}}
    space = {
        "optimizer.learning_rate": {"kind": "float", "low": 0.001, "high": 0.03, "log": True},
        "weighting.weights": {"kind": "simplex", "keys": ["next_item", "rating"], "low": 0.05},
        "model.dropout": {"kind": "float", "low": 0.0, "high": 0.5},
    }
    node = {"base": base, "space": space, "metric": "next_item.ndcg@10", "num_trials": TRIALS}
    node["scheduler"] = {"kind": "asha", "grace_epochs": 2, "reduction_factor": 2}
    path = root / "tune.yaml"
    path.write_text(yaml.safe_dump(node))
    return path


def trials(study: Path) -> list[dict[str, Any]]:
    """Return the trials of a study by number, without how long they took."""
    found = json.loads((study / "leaderboard.json").read_text())["trials"]
    found = [{name: value for name, value in trial.items() if name != "seconds"} for trial in found]
    return sorted(found, key=lambda trial: trial["number"])


def _moments(study: Path) -> list[tuple[int, int]]:
    """Return every (trial, epoch) that a search comes by."""
    return [(trial["number"], epoch) for trial in trials(study) for epoch in range(1, trial["epochs"] + 1)]


def _killed(
    config: Path, study: Path, draws: random.Random, moments: list[tuple[int, int]], expected: list[dict[str, Any]]
) -> dict[str, Any]:
    """Kill a search at one or two moments, somewhere within an epoch, and let it end."""
    points = sorted(draws.sample(moments[:-1], draws.choice([1, 2])))
    arguments, seen = [str(config), "-o", str(study)], []
    for number, epoch in points:
        process = _started(arguments)
        while process.poll() is None and _epochs(study, number) < epoch:
            time.sleep(0.02)
        time.sleep(draws.uniform(0, 0.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            seen.append([number, epoch])
        _wait(process)
        arguments = ["--resume", str(study)]
    code = _wait(_started(["--resume", str(study)]))
    return {"killed_at": seen, "trials": len(trials(study)), "same": code == 0 and trials(study) == expected}


def _epochs(study: Path, number: int) -> int:
    path = study / "trials" / f"{number:03d}" / "history.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def _started(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "raysys", "tune", *arguments]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=900)


if __name__ == "__main__":
    main()
