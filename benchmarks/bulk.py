"""Bulk recommendation: users per CPU-second of one worker beside a bare loop of the same ranking.

A tenth of the users and all of them are measured, each in a process with a Ray of its own that runs before the clock.
Their difference is what a user costs; the rest is what a call costs once.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import _meter
import peers
import psutil

NUM_ITEMS = 10_000
USERS, QUICK_USERS = 100_000, 30_000
PARTS = 10
K = 10
LIMIT = 0.9
_BARE, _LIMIT = "bare loop", "limit"
Taken = dict[str, float]


def main() -> None:
    options = _options()
    if options.step is not None:
        _STEPS[options.step](Path(options.folder), options.size)
        return
    about = peers.machine()
    size = QUICK_USERS if options.quick else USERS
    with tempfile.TemporaryDirectory(prefix="rs") as folder:  # Ray's sockets lie in it: their paths must be short
        _measure("prepare", folder, size)
        bare = _measure("bare", folder, size)
        with_tasks = _measure("bare-tasks", folder, size)
        calls = [_measure(step, folder, size) for step in ("few", "all", "few-tasks", "all-tasks")]
    rows = _rows(size, bare, with_tasks, *calls)
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _rows(
    size: int, bare: Taken, bare_tasks: Taken, few: Taken, every: Taken, few_tasks: Taken, tasks: Taken
) -> list[dict[str, Any]]:
    users = size - size // PARTS
    worker = (every["worker_seconds"] - few["worker_seconds"]) / users
    whole = (every["cpu_seconds"] - few["cpu_seconds"]) / users
    once = few["worker_seconds"] - worker * (size // PARTS)
    alone, alone_tasks = size / bare["seconds"], size / bare_tasks["seconds"]
    worker_tasks = (tasks["worker_seconds"] - few_tasks["worker_seconds"]) / users
    memory = (every["worker_mb"], few["worker_mb"])
    rate = "users per CPU-second"
    return [
        peers.row("lists, the worker", 1 / worker, alone, _BARE, rate),
        peers.row("lists, the worker: share of the bare loop", 1 / worker / alone, LIMIT, _LIMIT, "share"),
        peers.row("lists, all processes of Ray and the driver", 1 / whole, alone, _BARE, rate),
        peers.row("lists and the scores of a task, the worker", 1 / worker_tasks, alone_tasks, _BARE, rate),
        peers.row("once a worker: imports, model, maps", once, None, "none", "CPU-seconds"),
        peers.row(f"peak memory of the worker, {size:,} users", *memory, "a tenth of them", "MB", lower_is_better=True),
        peers.row("extrapolated: 1M users", 1e6 * whole / 3600, 1e6 / alone / 3600, _BARE, "core-hours", True),
    ]


def _measure(step: str, folder: str, size: int) -> Taken:
    command = [sys.executable, __file__, "--step", step, "--folder", folder, "--size", str(size)]
    print(f"running {step}", file=sys.stderr, flush=True)
    result, taken = _meter.measure(command, [], {**peers.ONE_THREAD, "RAY_TMPDIR": folder})
    return {**taken, **result}


def _prepare(folder: Path, size: int) -> None:
    """Make the dataset, a run that makes lists and one that also predicts ratings."""
    import raysys
    from raysys import cluster

    _meter.measured()
    source = {"format": "synthetic", "num_users": size, "num_items": NUM_ITEMS, "events_per_user": 20}
    with cluster.connected():
        dataset = raysys.ingest({"project": "benchmark", "root": str(folder), **source})
        for name, tasks in (("lists", {"next_item": {}}), ("tasks", {"next_item": {}, "rating": {}})):
            node = {
                "project": "benchmark",
                "root": str(folder),
                "dataset": str(dataset.path),
                "model": {"width": 64, "max_length": 50},
                "tasks": tasks,
                "training": {"epochs": 1, "batch_size": 64, "user_share": 2000 / size, "early_stopping": None},
                "evaluation": {"resamples": 10, "max_users": 500},
            }
            raysys.train(node, output=str(folder / name))
        ids = _reader(dataset).user_ids(_rows_of(size // PARTS))
        (folder / "few.txt").write_text("\n".join(ids.to_pylist()))
    _meter.measured({})


def _bulk(run: str, users: str) -> Any:
    """Return a step that recommends with one worker on a Ray that runs before the clock."""

    def step(folder: Path, size: int) -> None:
        from raysys import cluster

        cluster.prepare_environment()
        import ray

        import raysys
        from raysys.bulk.recommend import recommend_users

        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        opened = raysys.load(folder / run)
        asked, output = str(folder / users) if users != "all" else users, folder / f"{run}-{users}-lists"
        _meter.measured()
        with _Watch() as watch:
            found = recommend_users(opened, str(output), asked, K, users_per_part=size // PARTS)
        assert found.rows == found.num_users * K
        _meter.measured({"worker_seconds": watch.seconds, "worker_mb": watch.megabytes})
        ray.shutdown()

    return step


class _Watch:
    """Samples the one worker below this process: its CPU-seconds, and its peak memory less what it shares."""

    def __init__(self) -> None:
        self.seconds, self.megabytes = 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        worker: psutil.Process | None = None
        while not self._over.wait(0.05):
            with contextlib.suppress(psutil.Error, IndexError):
                worker = worker or next(filter(_is_worker, psutil.Process().children(recursive=True)), None)
                if worker is not None:
                    times, memory = worker.cpu_times(), worker.memory_info()
                    self.seconds = times.user + times.system
                    self.megabytes = max(self.megabytes, (memory.rss - memory.shared) / 2**20)


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error, IndexError):
        return process.cmdline()[0].startswith("ray::MapWorker")
    return False


def _bare(run: str) -> Any:
    """Return a step that ranks for all users in a loop as evaluation does, users of like history together."""

    def step(folder: Path, size: int) -> None:
        import time

        import numpy as np
        import torch

        import raysys
        from raysys.data.batches import make_queries
        from raysys.data.dataset import Dataset
        from raysys.data.schema import Split
        from raysys.evaluation.pair_scores import task_scores
        from raysys.evaluation.ranking import ModelScorer, recommend

        torch.set_num_threads(1)
        opened = raysys.load(folder / run)
        dataset, network = Dataset.open(opened.record.dataset), opened.network
        reader, scorer = _reader(dataset), ModelScorer(network)
        order = np.argsort(np.diff(reader.rows(_rows_of(size)).offsets), kind="stable")
        _meter.measured()
        began = time.process_time()
        with torch.inference_mode():
            for at in range(0, size, opened.config.evaluation.batch_size):
                rows = reader.rows(order[at : at + opened.config.evaluation.batch_size])
                queries = make_queries(rows, Split.NONE, reader.is_history, opened.config.model.max_length)
                encoded = network.recommender(queries.history) if network.pair_scorers() else None
                found = recommend(scorer, queries, K, asked=scorer.ask(queries, encoded))
                if encoded is not None:
                    task_scores(network, encoded, queries.anchor_B, found.items_BK, opened.calibrators)
        _meter.measured({"seconds": time.process_time() - began})

    return step


def _reader(dataset: Any) -> Any:
    from raysys.data.reader import ShardReader

    return ShardReader(dataset, columns=True, labels=())


def _rows_of(count: int) -> Any:
    import numpy as np

    return np.arange(count)


_STEPS = {
    "prepare": _prepare,
    "bare": _bare("lists"),
    "bare-tasks": _bare("tasks"),
    "few": _bulk("lists", "few.txt"),
    "all": _bulk("lists", "all"),
    "few-tasks": _bulk("tasks", "few.txt"),
    "all-tasks": _bulk("tasks", "all"),
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_USERS:,} users instead of {USERS:,}")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    for name in ("--step", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
