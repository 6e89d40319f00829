"""Point-wise multi-task training on KuaiRand beside torch-rechub, DeepCTR-Torch and LightGBM: rates, AUC and GAUC.

Rates compare the same model without a sequence: the same rows, fields, widths and experts, Adam for all. Quality is set
beside that of this model and of the shipped example, which reads what people had watched before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _kuairand
import peers

LIGHTGBM = "LightGBM 4.6"
RECHUB, DEEPCTR = "torch-rechub 0.9", "DeepCTR-Torch 0.2"
LIMIT = 1.8
EPOCHS = 2
TIMED_EPOCHS = 4  # of ours: the first warms up
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """A model of a peer, and how ours of the same kind shares."""

    title: str
    library: str
    environment: str
    script: str
    arguments: tuple[str, ...]
    sharing: Mapping[str, Any]
    esmm: bool = False
    limit: float | None = None
    only_in_full: bool = False


_MMOE = {"kind": "mmoe", "num_experts": 4}
_PLE = {"kind": "ple", "num_shared": 2, "num_own": 1}
PEERS = (
    Peer("MMoE", RECHUB, "torch-rechub", "rechub_kuairand.py", ("--model", "MMOE"), _MMOE, limit=LIMIT),
    Peer("MMoE", DEEPCTR, "deepctr-torch", "deepctr_kuairand.py", (), _MMOE, limit=LIMIT),
    Peer("PLE", RECHUB, "torch-rechub", "rechub_kuairand.py", ("--model", "PLE"), _PLE, only_in_full=True),
    Peer(
        "ESMM",
        RECHUB,
        "torch-rechub",
        "rechub_kuairand.py",
        ("--model", "ESMM"),
        {"kind": "shared_bottom"},
        esmm=True,
        only_in_full=True,
    ),
)


@dataclass(frozen=True)
class Data:
    """The log as ours and as the peers read it."""

    impressions: Path
    histories: Path
    arrays: Path
    folder: Path


def main() -> None:
    options = _options()
    if options.measure is not None:
        node = json.loads(options.measure)
        print(json.dumps(_kuairand.timed(node) if options.how == "timed" else _kuairand.tested(node)))
        return
    about = peers.machine()
    rows: Rows = []
    with tempfile.TemporaryDirectory() as name:
        data = _prepared(Path(name))
        shipped = _shipped(data, options.quick)
        rows += _beside_trees(data, shipped)
        chosen = [peer for peer in PEERS if not (options.quick and peer.only_in_full)]
        rows += _beside_networks(data, chosen, shipped)
    limits = [row for row in rows if row["peer_name"] == "limit"]
    rows = [row for row in rows if row["peer_name"] != "limit"] + limits
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _prepared(folder: Path) -> Data:
    impressions = _kuairand.ingested(folder, histories=False)
    histories = _kuairand.ingested(folder, histories=True)
    arrays = _kuairand.exported(impressions, folder / "impressions.npz")
    return Data(impressions, histories, arrays, folder)


def _shipped(data: Data, quick: bool) -> dict[str, float]:
    """Train the example as it is shipped, and measure it on the test split; when in a hurry, for few epochs."""
    from raysys.configfile import read_yaml

    node = read_yaml(_kuairand.EXAMPLE / "finetune.yaml")
    if quick:
        node["training"]["epochs"] = min(node["training"]["epochs"], EPOCHS)
    return _ours("tested", {**node, "dataset": str(data.histories)})


def _beside_trees(data: Data, shipped: Mapping[str, float]) -> Rows:
    features = Path(os.environ.get("RAYSYS_DATA", "data")).absolute() / "kuairand-pure"
    found, _ = _theirs(data, "lightgbm", "lightgbm_kuairand.py", ("--features", features))
    return _quality("shipped example", _kuairand.LABELS, ("auc", "gauc"), shipped, found, LIGHTGBM)


def _beside_networks(data: Data, chosen: list[Peer], shipped: Mapping[str, float]) -> Rows:
    """Return rates and quality of every model of the peers; ours of one kind is measured once."""
    rows: Rows = []
    ours: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for peer in chosen:
        if peer.title not in ours:
            timed = _kuairand.point_wise(data.impressions, peer.sharing, peer.esmm, TIMED_EPOCHS, users=64)
            tested = _kuairand.point_wise(data.impressions, peer.sharing, peer.esmm, EPOCHS, users=None)
            ours[peer.title] = _ours("timed", timed), _ours("tested", tested)
        timed, tested = ours[peer.title]
        judged, found = _theirs(data, peer.environment, peer.script, (*peer.arguments, "--epochs", EPOCHS))
        rates = timed["samples_per_cpu_second"], found["samples_per_cpu_second"]
        one = peers.row(f"{peer.title}, batch of 1,024", *rates, peer.library, "samples per CPU-second")
        rows.append(one)
        labels = ("click", "long_view")
        rows += _quality(f"{peer.title}, the same fields", labels, ("auc", "gauc"), tested, judged, peer.library)
        rows += _quality(f"shipped example, beside {peer.title}", labels, ("auc",), shipped, judged, peer.library)
        if peer.limit:
            rows.append(peers.row(f"{peer.title}: speed / {peer.library}", one["ratio"], peer.limit, "limit", "times"))
    return rows


def _quality(
    what: str,
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    peer: str,
) -> Rows:
    return [
        peers.row(f"{what}: {label}", ours.get(f"{label}.{metric}"), theirs[f"{label}.{metric}"], peer, metric.upper())
        for label in labels
        for metric in metrics
    ]


def _theirs(
    data: Data, environment: str, script: str, arguments: tuple[object, ...]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return how a peer's predictions are judged here, and what it says of itself."""
    torch = None if environment == "lightgbm" else peers.TORCH
    python = peers.environment(environment, peers.REQUIREMENTS[environment], torch)
    predictions = data.folder / "predictions.npz"
    given = ("--data", data.arrays, "--predictions", predictions, *arguments)
    found = peers.run_peer(python, peers.SCRIPTS / script, given)
    return _kuairand.judged(data.arrays, predictions), found


def _ours(how: str, node: Mapping[str, Any]) -> dict[str, float]:
    """Measure ours in a fresh process, as a peer is; the code of this checkout, whatever is installed."""
    arguments, script = ["--how", how, "--measure", json.dumps(node)], Path(__file__).absolute()
    variables = {"PYTHONPATH": str(script.parents[1])}
    return peers.run_peer(Path(sys.executable), script, arguments, variables=variables)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MMoE alone, the example for two epochs: about 8 minutes")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--how", choices=["timed", "tested"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
