"""Ingestion of logs of 1M, 10M and 100M rows: ours beside polars, RecBole and RecTools; seconds, memory and disk.

Ray runs before the clock starts. Ours counts the processes of Ray, all of them; each peer is one process. Ours keeps
rejected rows and a log for later days, and survives killed workers; what the peers do is said in their scripts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import _meter
import peers
from _click_log import DAY_MS, START_MS, click_log

MILLION = 1_000_000
NUM_ITEMS = {MILLION: 100_000, 10 * MILLION: 300_000, 100 * MILLION: 1_000_000}
VALID_FROM, TEST_FROM = START_MS + 27 * DAY_MS, START_MS + 28 * DAY_MS
POLARS, RECBOLE, RECTOOLS = "polars 2.1", "RecBole 1.2.1", "RecTools 0.19"
RATE = "rows_per_cpu_second"
Rows = list[dict[str, Any]]


def main() -> None:
    options = _options()
    if options.measure is not None:
        _ingest(json.loads(options.measure), options.output)
        return
    about = peers.machine()
    sizes = [size for size in NUM_ITEMS if size <= (options.events or (MILLION if options.quick else 10 * MILLION))]
    logs = {size: click_log(size, NUM_ITEMS[size]) for size in sizes}
    ours, rows = {}, []
    for size, log in logs.items():
        ours[size] = _run_ours(log)
        polars = _run_polars(log, ours[size]) if size <= 10 * MILLION else None
        rows += _beside_polars(_short(size), ours[size], polars)
    rows += _beside_recbole(logs[MILLION], ours)
    rows += [row for size in sizes if size <= 10 * MILLION for row in _beside_rectools(size, logs[size], ours[size])]
    rows += _beside_limits(ours, rows)
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def config(log: Path) -> dict[str, Any]:
    """Return the configuration of the ingestion of a click log."""
    columns = {"user_id": "user_id", "item_id": "item_id", "event": "event", "timestamp": "ts"}
    return {
        "project": "benchmark",
        "sources": [{"format": "parquet", "path": str(log), "columns": {**columns, "labels": {"rating": "rating"}}}],
        "split": {"kind": "time", "valid_from": VALID_FROM, "test_from": TEST_FROM},
        "clean": {"max_history": None},  # the peers keep the whole of the crawler's events
    }


def _run_ours(log: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rs") as folder:  # Ray's sockets lie in it: their paths must be short
        output, ray = Path(folder) / "dataset", Path(folder) / "ray"
        command = [sys.executable, __file__, "--measure", json.dumps(config(log)), "-o", str(output)]
        result, taken = _meter.measure(command, [output, ray], {"RAY_TMPDIR": folder})
        size = _meter.disk_usage(output) / 2**20
    source = _meter.disk_usage(log) / 2**20
    rate = {RATE: result["rows"] / taken["cpu_seconds"]}
    return {**result, **taken, **rate, "dataset_mb": size, "log_mb": source}


def _ingest(node: dict[str, Any], output: Path) -> None:
    """Be the measured program: start Ray, wait for the clock, ingest, and tell what the dataset holds."""
    import ray

    import raysys
    from raysys import cluster

    with cluster.connected():
        ray.get(ray.remote(lambda: None).remote())
        _meter.measured()
        found = raysys.ingest(node, output).manifest
        counts = {"events": found.num_events, "users": found.num_users, "items": found.num_items}
        _meter.measured({**counts, "rows": found.rows})


def _run_polars(log: Path, ours: dict[str, Any]) -> dict[str, Any]:
    python = peers.environment("polars", peers.REQUIREMENTS["polars"], torch=None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--log", log, "--output", folder, "--periods", VALID_FROM, TEST_FROM]
        theirs = peers.run_peer(python, peers.SCRIPTS / "polars_ingest.py", arguments)
    unlike = {name: (ours[name], theirs[name]) for name in ("events", "users", "items") if ours[name] != theirs[name]}
    if unlike:
        raise SystemExit(f"{log}: ours and polars found other data, so their times say nothing: {unlike}")
    return theirs


def _beside_polars(size: str, ours: dict[str, Any], theirs: dict[str, Any] | None) -> Rows:
    peer = theirs or {}

    def compare(what: str, mine: str, yours: str, unit: str) -> dict[str, Any]:
        return peers.row(f"{size}: {what}", ours[mine], peer.get(yours), POLARS, unit, lower_is_better=True)

    return [
        compare("wall time", "wall_seconds", "wall_seconds", "s"),
        compare("CPU time (ours: all of Ray)", "cpu_seconds", "cpu_seconds", "CPU-s"),
        compare("peak memory (ours: PSS of all)", "peak_pss_mb", "peak_memory_mb", "MB"),
        compare("peak memory less shared", "peak_private_mb", "-", "MB"),
        compare(f"peak disk (log: {ours['log_mb']:.0f} MB)", "peak_disk_mb", "-", "MB"),
        compare("dataset, its log for later days included", "dataset_mb", "-", "MB"),
    ]


def _beside_recbole(log: Path, ours: dict[int, dict[str, Any]]) -> Rows:
    """Compare with a rate at 1M rows, whatever our size: RecBole needs minutes and gigabytes for more."""
    python = peers.environment("recbole", peers.REQUIREMENTS["recbole"])
    with tempfile.TemporaryDirectory() as folder:
        atomic = _write_atomic(log, Path(folder) / "clicks" / "clicks.inter")
        theirs = peers.run_peer(python, peers.SCRIPTS / "recbole_ingest.py", ["--log", atomic])
    unit = "rows per CPU-second (fixed costs of Ray included)"
    return [
        peers.row(f"{_short(size)} (peer: 1M)", found[RATE], theirs[RATE], RECBOLE, unit)
        for size, found in ours.items()
        if size <= 10 * MILLION
    ]


def _write_atomic(log: Path, path: Path) -> Path:
    """Write the good rows as RecBole's text format."""
    import pyarrow.parquet as pq

    names = {
        "user_id": "user_id:token",
        "item_id": "item_id:token",
        "rating": "rating:float",
        "ts": "timestamp:float",
    }
    frame = pq.read_table(log).to_pandas()
    good = frame["user_id"].notna() & (frame["item_id"] != " ") & (frame["ts"] < START_MS + 100 * DAY_MS)
    frame = frame[good].dropna().drop_duplicates()
    path.parent.mkdir(parents=True)
    frame[list(names)].rename(columns=names).to_csv(path, sep="\t", index=False)
    return path


def _beside_rectools(size: int, log: Path, ours: dict[str, Any]) -> Rows:
    python = peers.environment("rectools-parquet", peers.REQUIREMENTS["rectools-parquet"])
    theirs = peers.run_peer(python, peers.SCRIPTS / "rectools_ingest.py", ["--log", log])
    unit, short = "rows per CPU-second", _short(size)
    memory = theirs["rows_per_cpu_second_from_memory"]
    return [
        peers.row(f"{short}, both read the log", ours[RATE], theirs[RATE], RECTOOLS, unit),
        peers.row(f"{short}, peer from a clean table in memory", ours[RATE], memory, RECTOOLS, unit),
    ]


def _beside_limits(ours: dict[int, dict[str, Any]], rows: Rows) -> Rows:
    """Set what was found beside what is asked for; `peer` is the limit, and a ratio below 1 breaks it."""
    ten, hundred = ours.get(10 * MILLION), ours.get(100 * MILLION)
    found = []
    if ten:
        polars = next(row["peer"] for row in rows if row["name"] == "10M: wall time")
        found.append(peers.row("10M: wall time / polars", ten["wall_seconds"] / polars, 1.5, "limit", "", True))
    if ten and hundred:
        growth = hundred["peak_pss_mb"] / ten["peak_pss_mb"]
        longer = hundred["wall_seconds"] / ten["wall_seconds"]
        found += [
            peers.row("wall time, 100M / 10M", longer, 11.0, "limit", "", True),
            peers.row("peak memory, 100M / 10M", growth, 1.3, "limit", "", True),
            peers.row("100M: peak memory", hundred["peak_pss_mb"] / 1024, 6.0, "limit", "GB", True),
        ]
    largest = max(size for size in ours if size <= 10 * MILLION)
    for peer, limit in ((RECBOLE, 5.0), (RECTOOLS, 1.0)):
        rates = (row for row in rows if row["peer_name"] == peer and row["name"].startswith(_short(largest)))
        ratio = next(rates)["ratio"]
        found.append(peers.row(f"{_short(largest)}: rows per CPU-second / {peer}", ratio, limit, "limit", ""))
    return found


def _short(size: int) -> str:
    return f"{size // MILLION}M"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1M rows only: a few minutes")
    parser.add_argument(
        "--events", type=int, choices=list(NUM_ITEMS), help="the largest log (default: 10M; 100M: 4 GB disk)"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
