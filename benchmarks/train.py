"""Training SASRec beside RecTools and RePlay: CPU-seconds, one thread, the same model and data, in the same run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _sasrec
import peers

RECTOOLS, REPLAY = "RecTools 0.19", "RePlay 0.22"
SCRIPTS = {
    RECTOOLS: ("rectools", peers.SCRIPTS / "rectools_sasrec.py"),
    REPLAY: ("replay", peers.SCRIPTS / "replay_sasrec.py"),
}
FULL = {"kind": "full_softmax", "precision": "auto"}
BCE = {"kind": "bce", "negatives": 1}
SAMPLED = {"kind": "sampled_softmax", "negatives": 256}
SHARED = {"kind": "sampled_softmax", "negatives": 1, "in_batch": 255}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Ours:
    """One way in which ours is trained."""

    loss: Mapping[str, Any]
    note: str = ""
    attention_dropout: float = 0.2
    """As the peers have it."""
    only_in_full: bool = False


@dataclass(frozen=True)
class Peer:
    """One way in which a peer is trained, and how many times its rate ours shall be."""

    name: str
    arguments: tuple[str, ...]
    seconds: int
    """CPU-seconds of training; a third of it with --quick."""
    limit: float | None = None
    memory_limit: float | None = None
    note: str = ""
    only_in_full: bool = False


@dataclass(frozen=True)
class Comparison:
    """Ours and peers that train the same."""

    title: str
    ours: tuple[Ours, ...]
    peers: tuple[Peer, ...]
    data: str = "amazon-beauty"
    max_length: int = 50
    epochs: int = 1
    rate: str = "sequences"
    variables: Mapping[str, str] = field(default_factory=dict)


_WITHOUT = "ours without attention dropout"
_BOTH = (Ours(FULL), Ours(FULL, _WITHOUT, 0.0))
COMPARISONS = {
    "beauty-full": Comparison(
        "full softmax, Beauty",
        _BOTH,
        (
            Peer(RECTOOLS, ("--loss", "softmax"), 120, limit=25, memory_limit=3),
            Peer(REPLAY, ("--loss", "CE"), 60, limit=10),
        ),
    ),
    "beauty-full-kept": Comparison(
        "full softmax, Beauty, allocator keeps memory",
        _BOTH,
        (Peer(RECTOOLS, ("--loss", "softmax"), 120), Peer(REPLAY, ("--loss", "CE"), 60)),
        variables=peers.KEEP_MEMORY,
    ),
    "ml1m-full": Comparison(
        "full softmax, ML-1M",
        (Ours(FULL), Ours(FULL, _WITHOUT, 0.0, only_in_full=True)),
        (Peer(RECTOOLS, ("--loss", "softmax", "--max-length", "200"), 150, limit=5, memory_limit=3),),
        data="movielens-1m",
        max_length=200,
        rate="tokens",
    ),
    "beauty-bce": Comparison(
        "BCE with one negative, Beauty",
        (Ours(BCE), Ours(BCE, _WITHOUT, 0.0, only_in_full=True)),
        (Peer(RECTOOLS, ("--loss", "BCE", "--negatives", "1"), 45, limit=5),),
        epochs=2,
    ),
    "beauty-sampled": Comparison(
        "sampled softmax, 256 negatives, Beauty",
        (
            Ours(SAMPLED),
            Ours(SAMPLED, _WITHOUT, 0.0, only_in_full=True),
            Ours(SHARED, "ours with one draw for the batch, as the peer", only_in_full=True),
        ),
        (
            Peer(REPLAY, ("--loss", "CESampled", "--negatives", "256"), 30),
            Peer(
                REPLAY,
                ("--loss", "CESampled", "--negatives", "256", "--bucket-size", "16"),
                30,
                note="peer with length buckets",
                only_in_full=True,
            ),
        ),
    ),
}
OTHERS = ("ray", "quality")
ONLY_IN_FULL = {"beauty-full-kept", "quality"}


def main() -> None:
    options = _options()
    if options.measure is not None:
        print(json.dumps(MEASURED[options.how](json.loads(options.measure))))
        return
    about = peers.machine()
    chosen = options.only or [name for name in (*COMPARISONS, *OTHERS) if not options.quick or name not in ONLY_IN_FULL]
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        used = {COMPARISONS[name].data if name in COMPARISONS else "amazon-beauty" for name in chosen}
        datasets = {name: _sasrec.ingested(name, Path(folder)) for name in sorted(used)}
        for name in chosen:
            if name in COMPARISONS:
                rows += _compare(COMPARISONS[name], datasets, options.quick)
            elif name == "ray":
                rows += _beside_the_bare_loop(datasets["amazon-beauty"], pairs=1 if options.quick else 3)
            else:
                rows += _quality(datasets["amazon-beauty"])
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _compare(what: Comparison, datasets: Mapping[str, Path], quick: bool) -> Rows:
    """Return rates of every way of ours beside every peer, peaks of memory, and what was asked for."""
    theirs = [(peer, _run_peer(what, peer, quick)) for peer in what.peers if not (quick and peer.only_in_full)]
    rate = f"{what.rate}_per_cpu_second"
    rows, limits = [], []
    for way in what.ours:
        if quick and way.only_in_full:
            continue
        node = _sasrec.settings(datasets[what.data], way.loss, what.max_length, way.attention_dropout, what.epochs)
        ours = _measured("here", node, what.variables)
        for peer, found in theirs:
            name = ", ".join(filter(None, (what.title, way.note, peer.note)))
            one = peers.row(name, ours[rate], found[rate], peer.name, f"{what.rate} per CPU-second")
            memory = ours["peak_memory_mb"], found["peak_memory_mb"]
            rows += [one, peers.row(f"{name}: peak memory", *memory, peer.name, "MB", lower_is_better=True)]
            if way is what.ours[0]:
                asked = ((one["ratio"], peer.limit, "speed"), (rows[-1]["ratio"], peer.memory_limit, "memory"))
                limits += [_limit(f"{name}: {kind} / {peer.name}", *pair) for *pair, kind in asked if pair[1]]
    return rows + limits


def _limit(name: str, ratio: float, limit: float) -> dict[str, Any]:
    """Set a ratio beside what is asked for; a ratio below 1 in this row breaks it."""
    return peers.row(name, ratio, limit, "limit", "times")


def _run_peer(what: Comparison, peer: Peer, quick: bool) -> dict[str, Any]:
    environment, script = SCRIPTS[peer.name]
    python = peers.environment(environment, peers.REQUIREMENTS[environment])
    seconds = peer.seconds // 3 if quick else peer.seconds
    arguments = ["--data", _sasrec.source(what.data), *peer.arguments, "--seconds", seconds]
    return peers.run_peer(python, script, arguments, variables=what.variables)


def _measured(how: str, node: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Measure ours in a fresh process, as a peer is."""
    arguments = ["--how", how, "--measure", json.dumps(node)]
    return peers.run_peer(Path(sys.executable), Path(__file__).absolute(), arguments, variables=variables)


def _beside_the_bare_loop(dataset: Path, pairs: int) -> Rows:
    """Compare a worker process of Ray Train with a plain process, in turns; from a built model to the last epoch."""
    node = _sasrec.settings(dataset, FULL, epochs=2)
    found: dict[str, list[dict[str, Any]]] = {"here": [], "ray": []}
    for _ in range(pairs):
        for how, runs in found.items():
            runs.append(_measured(how, node))
    rows = []
    for clock, unit in (("cpu_seconds", "CPU-second"), ("wall_seconds", "second")):
        bare, ray = (
            sum(run["sequences"] for run in runs) / sum(run[clock] for run in runs)
            for runs in (found["here"], found["ray"])
        )
        name = "through Ray Train, one worker process, after start-up"
        rows.append(peers.row(name, ray, bare, "bare loop", f"sequences per {unit}"))
    return [*rows, _limit("speed / bare loop (CPU)", rows[0]["ratio"], 0.95)]


def _quality(dataset: Path) -> Rows:
    """Compare what is learned in like time: the example's own config beside the peer with the same CPU-seconds."""
    from raysys.configfile import read_yaml

    node = read_yaml(_sasrec.EXAMPLES / "amazon-beauty" / "pretrain.yaml")
    ours = _measured("judged", {**node, "dataset": str(dataset)})
    peer = Peer(RECTOOLS, ("--loss", "softmax", "--evaluate"), 90)
    theirs = _run_peer(COMPARISONS["beauty-full"], peer, quick=False)
    name = f"Beauty, NDCG@10 on test after {ours['cpu_seconds']:.0f} CPU-s (peer: {peer.seconds})"
    return [peers.row(name, ours["next_item.ndcg@10"], theirs["evaluation"]["ndcg@10"], RECTOOLS, "NDCG@10")]


def _judged(node: Mapping[str, Any]) -> dict[str, Any]:
    """Train as a user would, validation included, and evaluate the test split."""
    return _sasrec.trained(node, judged=True)


MEASURED = {"here": _sasrec.trained, "ray": _sasrec.trained_through_ray, "judged": _judged}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer ways, less time for the peers: about 8 minutes")
    parser.add_argument("--only", nargs="+", choices=[*COMPARISONS, *OTHERS], help="these comparisons alone")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--how", choices=["here", "ray", "judged"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
