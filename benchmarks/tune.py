"""What a trial of `raysys tune` costs beside its training and validation, beside an empty trial of bare Ray Tune.

Both are differences between a long and a short search, so that starts do not count; both reuse their actors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peers

LIMIT = 0.5
FEW, MANY = 3, 15
REPORTS = 3
_PEER = "Ray Tune, empty trial"


def main() -> None:
    options = _options()
    if options.measure is not None:
        print(json.dumps(_measured(Path(options.measure))))
        return
    about = peers.machine()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--measure", folder]
        found = peers.run_peer(Path(sys.executable), Path(__file__).absolute(), arguments)
    own = found["trial"] - found["training"]
    rows = [
        peers.row("a trial, less training and validation", own, found["empty"], _PEER, "seconds", lower_is_better=True),
        peers.row("training and validation of a trial", found["training"], None, "none", "seconds"),
        peers.row("a trial above an empty one", own - found["empty"], LIMIT, "limit", "seconds", lower_is_better=True),
    ]
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _measured(root: Path) -> dict[str, float]:
    """Measure in a process of its own: one Ray for all searches."""
    from raysys import cluster

    cluster.prepare_environment()
    with cluster.connected():
        base = _base(root)
        _search(root, base, FEW)  # what is loaded once
        trial = _each(lambda count: _search(root, base, count))
        empty = _each(lambda count: _empty(root, count))
    training = _training(root, base)
    return {"trial": trial, "empty": empty, "training": training}


def _each(run: Any) -> float:
    """Return the seconds of one trial more."""
    few, many = (statistics.median(run(count) for _ in range(3)) for count in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _base(root: Path) -> dict[str, Any]:
    import raysys

    source = {"format": "synthetic", "num_users": 1000, "num_items": 200, "events_per_user": 15}
    dataset = raysys.ingest({"project": "benchmark", "root": str(root), **source})
    return {
        "project": "benchmark",
        "root": str(root),
        "dataset": str(dataset.path),
        "model": {"width": 32, "max_length": 12},
        "tasks": {"next_item": {}},
        "training": {"epochs": REPORTS, "batch_size": 64, "early_stopping": None},
        "evaluation": {"resamples": 20},
    }


def _search(root: Path, base: dict[str, Any], count: int) -> float:
    """Return the seconds of a search in which every trial trains the same number of epochs."""
    from tuning.command import tune_study

    space = {"model.dropout": {"kind": "float", "low": 0.1, "high": 0.3}}
    node = {"base": base, "space": space, "metric": "next_item.ndcg@10", "scheduler": {"kind": "none"}}
    began = time.perf_counter()
    tune_study({**node, "num_trials": count, "searcher": {"kind": "random"}}, output=root / f"study-{time.time_ns()}")
    return time.perf_counter() - began


def _empty(root: Path, count: int) -> float:
    """Return the seconds of bare Ray Tune with trials that report as often and do nothing."""
    from ray import tune

    began = time.perf_counter()
    tune.Tuner(
        _report,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=count, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(name=f"empty-{time.time_ns()}", storage_path=str(root / "empty"), verbose=0),
    ).fit()
    return time.perf_counter() - began


def _report(config: dict[str, float]) -> None:
    from ray import tune

    for epoch in range(1, REPORTS + 1):
        tune.report({"epoch": epoch, "objective": config["x"]})


def _training(root: Path, base: dict[str, Any]) -> float:
    """Return the seconds that the loop itself takes for one trial, in this process, warm."""
    from raysys.config import RunConfig
    from raysys.configfile import build
    from raysys.data.dataset import Dataset
    from raysys.training.loop import TrainingLoop
    from raysys.training.start import build_network, resolve

    config = resolve(build(RunConfig, base, "benchmark"))
    seconds = []
    for number in range(4):
        dataset = Dataset.open(str(config.dataset))
        directory = root / f"bare-{number}"
        directory.mkdir()
        loop = TrainingLoop(config, dataset, build_network(config, dataset), directory, show=False)
        began = time.perf_counter()
        loop.run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: it takes two minutes")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
