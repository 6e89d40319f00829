"""What each loss weighting costs: CPU-seconds of a step of six tasks on KuaiRand, beside a fixed sum of their losses.

The model is that of the example. A step goes from a batch in hand to new weights; every weighting takes its own copy
of the model over the same batches, in turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import _kuairand
import peers

FIXED = "fixed"
LIMIT = 1.6
SIXTH = {"follow": {"kind": "binary", "label": "follow", "events": ["impression"]}}
WARM_UP = 2
Rows = list[dict[str, Any]]


def main() -> None:
    options = _options()
    about = peers.machine()
    with tempfile.TemporaryDirectory() as folder:
        dataset = _kuairand.ingested(Path(folder), histories=True)
        rows = _rows(_seconds_per_step(dataset, steps=12 if options.quick else 40))
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def weightings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every kind of the registry, and each method of `gramian`, with its config."""
    from raysys.weighting import WEIGHTINGS

    for kind, weighting in WEIGHTINGS.items():
        methods = weighting.Config.model_fields.get("method")
        for method in get_args(methods.annotation) if methods else ():
            yield f"{kind} {method}", {"kind": kind, "method": method}
        if not methods:
            yield kind, {"kind": kind}


def _seconds_per_step(dataset: Path, steps: int) -> dict[str, list[float]]:
    """Return the CPU-seconds of every step of every weighting; those of one place are of the same batch."""
    import torch

    from raysys.configfile import read_yaml
    from raysys.training.parallel import Parallel

    torch.set_num_threads(1)
    node = read_yaml(_kuairand.EXAMPLE / "finetune.yaml")
    node |= {"dataset": str(dataset), "tasks": {**node["tasks"], **SIXTH}}
    parallel = Parallel(0, 1, torch.device("cpu"))
    learners = {name: _learner({**node, "weighting": weighting}, parallel) for name, weighting in weightings()}
    found: dict[str, list[float]] = {name: [] for name in learners}
    for step, parts in enumerate(_batches(node, parallel, WARM_UP + steps)):
        names = list(learners)
        for name in names[step % len(names) :] + names[: step % len(names)]:  # the first finds cold memory
            begun = time.process_time()
            learners[name].step(step, parts)
            found[name].append(time.process_time() - begun)
    return {name: seconds[WARM_UP:] for name, seconds in found.items()}


def _opened(node: Mapping[str, Any]) -> tuple[Any, Any]:
    from raysys.config import RunConfig
    from raysys.configfile import build
    from raysys.data.dataset import Dataset

    config = build(RunConfig, dict(node), "benchmark")
    return config, Dataset.open(str(config.dataset))


def _learner(node: Mapping[str, Any], parallel: Any) -> Any:
    from raysys.training.learner import Learner
    from raysys.training.start import build_network

    config, dataset = _opened(node)
    network = build_network(config, dataset).train()
    return Learner(config, network, parallel, total_steps=1000)


def _batches(node: Mapping[str, Any], parallel: Any, count: int) -> Iterator[Any]:
    """Yield the first batches of training."""
    from raysys.data.reader import ShardReader
    from raysys.training.feed import Feed

    config, dataset = _opened(node)
    feed = Feed(config, dataset, ShardReader(dataset, columns=True), parallel)
    yield from feed.batches(0, feed.order(0)[:count], 0)


def _rows(found: Mapping[str, list[float]]) -> Rows:
    """Return how many times a fixed sum's step each costs, of the same batches, and what was asked of gramian."""
    rows, limits = [], []
    for name, seconds in found.items():
        cost = statistics.median(mine / its for mine, its in zip(seconds, found[FIXED], strict=True))
        step = f"{name}: step of six tasks ({1000 * statistics.median(seconds):.0f} CPU-ms)"
        rows.append(peers.row(step, cost, 1.0, FIXED, "times", lower_is_better=True))
        if name.startswith("gramian"):
            limits.append(peers.row(f"{name}: step / {FIXED}", cost, LIMIT, "limit", "times", lower_is_better=True))
    return rows + limits


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps: about 3 minutes")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
