"""Kills one of two nodes while trials run on both, and compares the search's trials with those of an undisturbed one.

The cluster is simulated: a head without CPUs and two nodes of one each, all on this machine. The trial of the node that
died goes on from its checkpoint on the other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from resume import base_config

from raysys import cluster

KILLS, TRIALS, EPOCHS = 3, 8, 6
SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/evidence-tune_nodes.json"))
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as short:
        (Path(short) / "ray").mkdir()
        os.environ["RAY_TMPDIR"] = short  # sockets want short paths
        cluster.prepare_environment()
        rows = lose_nodes(Path(folder))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"rows": rows, "same": sum(row["same"] for row in rows)}, indent=1) + "\n")
    if not all(row["same"] for row in rows):
        sys.exit("a search that lost a node ended differently")


def write_search(root: Path) -> Path:
    """Ingest a generated log and write a search whose trials do not depend on each other."""
    base = {**base_config(root), "training": {"epochs": EPOCHS, "batch_size": 32, "threads": 1}}
    node = {
        "base": base,
        "space": {"optimizer.learning_rate": {"kind": "float", "low": 0.001, "high": 0.03, "log": True}},
        "metric": "next_item.ndcg@10",
        "num_trials": TRIALS,
        "max_concurrent": 2,
        "searcher": {"kind": "random"},
        "scheduler": {"kind": "none"},
    }
    path = root / "tune.yaml"
    path.write_text(yaml.safe_dump(node))
    return path


def lose_nodes(root: Path) -> list[dict[str, Any]]:
    """Run a search in peace and some that lose a node each; return what was seen."""
    from ray.cluster_utils import Cluster

    config = write_search(root)
    simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [simulated.add_node(num_cpus=1) for _ in range(2)]
        started = time.monotonic()
        wait_for_end(start_search(config, root / "whole", simulated.address))
        print(f"undisturbed: {time.monotonic() - started:.1f} s", flush=True)
        expected, rows = trials(root / "whole"), []
        for kill in range(KILLS):
            draws, study = random.Random(kill), root / f"study{kill}"
            search, started = start_search(config, study, simulated.address), time.monotonic()
            running = two_in_their_midst(search, study)
            time.sleep(draws.uniform(0, 0.3))
            simulated.remove_node(nodes.pop(draws.randrange(2)), allow_graceful=False)
            row = {"epochs_at_kill": {number: len(epochs(study, number)) for number in running}}
            row["interrupted"] = the_one_that_waits(search, study, running)
            wait_for_end(search)
            rows.append({**row, **outcome(study, expected), "seconds": round(time.monotonic() - started, 1)})
            print(rows[-1], flush=True)
            nodes.append(simulated.add_node(num_cpus=1))
    finally:
        simulated.shutdown()
    return rows


def outcome(study: Path, expected: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how a search ended: an epoch is recorded twice where a trial was begun anew."""
    found, once = trials(study), list(range(1, EPOCHS + 1))
    return {
        "finished": sum(trial["status"] == "finished" for trial in found),
        "every_epoch_once": all(epochs(study, trial["number"]) == once for trial in found),
        "same": found == expected,
    }


def start_search(config: Path, study: Path, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "raysys", "tune", str(config), "-o", str(study)]
    log = study.with_suffix(".log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "RAY_ADDRESS": address})


def wait_for_end(search: subprocess.Popen[bytes]) -> None:
    code = search.wait(SECONDS)
    assert code == 0, f"a search failed: {code}"


def two_in_their_midst(search: subprocess.Popen[bytes], study: Path) -> list[int]:
    """Wait until two trials run, both behind their first epoch and before their last but one; return their numbers."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and search.poll() is None:
        midst = [number for number in range(2, TRIALS) if 2 <= len(epochs(study, number)) <= EPOCHS - 2]
        if len(midst) == 2:
            return midst
        time.sleep(0.01)
    raise AssertionError("no two trials were seen in their midst")


def the_one_that_waits(search: subprocess.Popen[bytes], study: Path, running: list[int]) -> int:
    """Return which of two trials was interrupted: there is one node left, and the other has it until it ends."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and search.poll() is None:
        ended = [number for number in running if len(epochs(study, number)) == EPOCHS]
        if len(ended) == 1:
            return next(number for number in running if number not in ended)
        time.sleep(0.01)
    raise AssertionError("no trial waited for the other")


def epochs(study: Path, number: int) -> list[int]:
    return [line["epoch"] for line in history(study, number)]


def history(study: Path, number: int) -> list[dict[str, Any]]:
    path = study / "trials" / f"{number:03d}" / "history.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.is_file() else []
    return [json.loads(line) for line in whole]


def trials(study: Path) -> list[dict[str, Any]]:
    """Return the trials of a study by number, without how long they took."""
    found = json.loads((study / "leaderboard.json").read_text())["trials"]
    found = [{name: value for name, value in trial.items() if name != "seconds"} for trial in found]
    return sorted(found, key=lambda trial: trial["number"])


if __name__ == "__main__":
    main()
