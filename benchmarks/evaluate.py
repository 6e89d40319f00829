"""Full-ranking evaluation of SASRec: ours beside RecTools and RecBole on all Beauty users, and how it grows.

CPU-seconds, one thread, the same model on each side; it is not trained, for the time does not depend on its weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _sasrec
import peers

RECTOOLS, RECBOLE = "RecTools 0.19", "RecBole 1.2.1"
LOSS = {"kind": "full_softmax"}
Rows = list[dict[str, Any]]


def main() -> None:
    options = _options()
    if options.measure is not None:
        print(json.dumps(_evaluated(json.loads(options.measure))))
        return
    about = peers.machine()
    with tempfile.TemporaryDirectory() as folder:
        rows = _beside_peers(_sasrec.ingested("amazon-beauty", Path(folder)))
        rows += _growth(
            Path(folder), users=4_000 if options.quick else 10_000, items=5_000 if options.quick else 10_000
        )
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _beside_peers(dataset: Path) -> Rows:
    ours = _measured(dataset)
    rectools = _run("rectools", "rectools_sasrec.py", "--max-steps", "4", "--evaluate")["evaluation"]
    recbole = _run("recbole", "recbole_evaluate.py")
    small = _run("recbole", "recbole_evaluate.py", "--batch-size", "256")
    for found in (rectools, recbole):
        if found["users"] != ours["users"]:
            raise SystemExit(f"ours ranks for {ours['users']} users, a peer for {found['users']}: nothing to compare")
    name = f"Beauty, {ours['users']:,} users x {ours['items']:,} items"

    def compare(what: str, mine: str, theirs: Mapping[str, float], peer: str) -> dict[str, Any]:
        return peers.row(f"{name}: {what}", ours[mine], theirs["cpu_seconds"], peer, "CPU-s", lower_is_better=True)

    lists, whole = "lists and their metrics", "whole report (3 depths, intervals, slices, popularity)"
    rows = [
        compare(lists, "lists_cpu_seconds", rectools, RECTOOLS),
        compare(lists, "lists_cpu_seconds", recbole, f"{RECBOLE}, its own batch"),
        compare(lists, "lists_cpu_seconds", small, f"{RECBOLE}, batch of 256"),
        compare(whole, "cpu_seconds", rectools, RECTOOLS),
        compare(whole, "cpu_seconds", recbole, f"{RECBOLE}, its own batch"),
        compare(whole, "cpu_seconds", small, f"{RECBOLE}, batch of 256"),
        peers.row(
            f"{name}: peak memory",
            ours["peak_memory_mb"],
            recbole["peak_memory_mb"],
            RECBOLE,
            "MB",
            lower_is_better=True,
        ),
    ]
    limits = ((RECTOOLS, rows[0], 2.5), (RECBOLE, rows[1], 4.0))
    return rows + [peers.row(f"{lists} / {peer}", row["ratio"], limit, "limit", "times") for peer, row, limit in limits]


def _run(environment: str, script: str, *arguments: str) -> dict[str, Any]:
    python = peers.environment(environment, peers.REQUIREMENTS[environment])
    return peers.run_peer(python, peers.SCRIPTS / script, ["--data", _sasrec.source("amazon-beauty"), *arguments])


def _measured(dataset: Path) -> dict[str, Any]:
    """Measure ours in a fresh process, as a peer is."""
    node = json.dumps(_sasrec.settings(dataset, LOSS) | {"evaluation": {}})
    return peers.run_peer(Path(sys.executable), Path(__file__).absolute(), ["--measure", node])


def _evaluated(node: Mapping[str, Any]) -> dict[str, Any]:
    """Rank for the users of the test split: once for lists and metrics alone, once for the report of a run."""
    import torch

    from raysys.config import RunConfig
    from raysys.configfile import build
    from raysys.data.dataset import Dataset
    from raysys.data.schema import Split
    from raysys.evaluation.evaluate import collect, evaluate
    from raysys.evaluation.judge import Judge
    from raysys.training.start import build_network

    torch.set_num_threads(1)
    config = build(RunConfig, dict(node), "benchmark")
    dataset = Dataset.open(str(config.dataset))
    judge, network = Judge.of(dataset, config.evaluation, config.model.max_length), build_network(config, dataset)
    begun = time.process_time()
    outcomes = collect(judge, network, Split.TEST)
    between = time.process_time()
    evaluate(judge, network, Split.TEST)
    return {
        "users": len(outcomes.users_U),
        "items": dataset.manifest.num_items,
        "lists_cpu_seconds": between - begun,
        "cpu_seconds": time.process_time() - between,
        "peak_memory_mb": _sasrec.peak_memory_mb(),
    }


def _growth(folder: Path, users: int, items: int) -> Rows:
    """Evaluate generated logs, one of them with four times the users, one with four times the items."""
    from raysys import cluster

    sizes = {"small": (users, items), "more users": (4 * users, items), "more items": (users, 4 * items)}
    with cluster.connected():
        datasets = {name: _generated(folder / name.replace(" ", "_"), *size) for name, size in sizes.items()}
    found = {name: _measured(dataset) for name, dataset in datasets.items()}
    cost = {name: 1e9 * one["cpu_seconds"] / (one["users"] * one["items"]) for name, one in found.items()}
    rows = []
    for name in ("more users", "more items"):
        sizes_of = {one: f"{found[one]['users']:,} x {found[one]['items']:,}" for one in ("small", name)}
        title = f"{name}, {sizes_of[name]}: CPU time of the whole report"
        rows.append(
            peers.row(title, cost[name], cost["small"], f"ours, {sizes_of['small']}", "ns per user x item", True)
        )
    growth = max(cost["more users"], cost["more items"]) / cost["small"]
    return [*rows, peers.row("growth of the time per user x item", growth, 1.2, "limit", "times", lower_is_better=True)]


def _generated(path: Path, users: int, items: int) -> Path:
    import raysys

    source = {"format": "synthetic", "num_users": users, "num_items": items, "num_tastes": items // 100, "order": 0.5}
    dataset: Path = raysys.ingest(
        {"project": "generated", "sources": [source], "split": {"kind": "leave_one_out"}}, path
    ).path
    return dataset


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller generated logs")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
