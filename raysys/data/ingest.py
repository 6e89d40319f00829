"""Runs the data stations with Ray Data: read, validate, gather users, split, encode; the manifest comes last.

Two passes over the events: one gathers users by storage lane and learns the vocabulary, one encodes the lanes.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from raysys import cluster
from raysys.data.catalog import build_catalog, read_details
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, Manifest, commit, new_version
from raysys.data.files import read_arrow, write_arrow
from raysys.data.formats.source import EventFormat, Piece
from raysys.data.passes import EncodeLanes, GatherLanes, Plan, ReadPieces, format_of
from raysys.data.schema import MAX_EVENT_NAMES
from raysys.data.validation import ValidationReport
from raysys.data.vocabulary import Vocabulary, merge_items
from raysys.errors import UserError, nearest
from raysys.progress import stage

_SAMPLES_SHOWN = 3


def ingest(config: IngestConfig, output: str | Path | None = None) -> Dataset:
    """Turn the configured logs into a new version of a dataset directory.

    Raises:
        UserError: a source is missing or unreadable, or too many of its rows are rejected; nothing is left behind.
    """
    path = Path(output) if output else Path(config.root) / "datasets" / config.project
    formats = [format_of(source) for source in config.sources]
    pieces = [(which, piece) for which, part in enumerate(formats) for piece in part.pieces()]
    pieces = [(which, dataclasses.replace(piece, index=index)) for index, (which, piece) in enumerate(pieces)]
    labels = tuple(dict.fromkeys(label for part in formats for label in part.labels))
    details = read_details(config.items) if config.items else next(iter(_items(formats)), None)
    if not pieces:
        raise UserError(f"{', '.join(source.path for source in config.sources)}: the log is empty; nothing to ingest")
    with _alone(path.absolute()):
        version = new_version(path.absolute())
        plan = Plan(config, tuple(pieces), labels, _num_lanes(config, pieces), version, int(time.time() * 1000))
        try:
            with cluster.connected():
                return _run(plan, details)
        except BaseException:
            shutil.rmtree(version, ignore_errors=True)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            raise


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep a second ingestion on this machine from taking this one's unfinished version for a leftover."""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"raysys-{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{path}: another ingestion is writing this dataset; wait for it or give another -o") from None
    try:
        yield
    finally:
        lock.release()


def describe(config: IngestConfig) -> dict[str, Any]:
    """Tell what `ingest` would read, without reading it: for --dry-run."""
    formats = [format_of(source) for source in config.sources]
    pieces = [(which, piece) for which, part in enumerate(formats) for piece in part.pieces()]
    size = _source_bytes(pieces)
    return {
        "project": config.project,
        "sources": [source.model_dump(mode="json") for source in config.sources],
        "pieces": len(pieces),
        "rows": _add([part.estimate_rows() for part in formats]),
        "source_bytes": size,
        "shards": _num_lanes(config, pieces),
        "expected_disk_bytes": size * 2,
        "expected_memory_bytes": (512 << 20) + min(size, config.shard_bytes) * 8,
    }


def _add(counts: list[int | None]) -> int | None:
    return None if None in counts else sum(count or 0 for count in counts)


def _run(plan: Plan, details: pa.Table | None) -> Dataset:
    with stage("read, validate and gather users") as remarks:
        _first_pass(plan)
        report = _total_report(plan)
        remarks.append(f"{report.kept:,} events kept, {report.rows - report.kept:,} rejected")
        _refuse_bad_logs(plan, report)
    with stage("learn vocabulary and catalog") as remarks:
        items = merge_items([read_arrow(path) for path in _files(plan, "items")])
        if not items.num_rows:
            raise UserError("split: no event is left to train on; move valid_from to a later time or use leave_one_out")
        vocabulary, catalog = Vocabulary(items["item_id"].combine_chunks()), build_catalog(items, details)
        vocabulary.save(plan.version / "vocabulary.arrow")
        catalog.save(plan.version / "catalog.arrow")
        remarks.append(f"{vocabulary.num_items:,} items")
    with stage("encode and write shards") as remarks:
        event_names = _event_names(plan)
        summaries = _second_pass(plan, event_names)
        remarks.append(f"{len(summaries)} shards")
    write_arrow(pa.concat_tables([read_arrow(p) for p in _files(plan, "rows")], promote_options="none"), _rows(plan))
    manifest = _manifest(plan, report, vocabulary, event_names, summaries)
    shutil.rmtree(plan.staging)
    return commit(plan.version, manifest)


def _first_pass(plan: Plan) -> None:
    import ray.data

    cluster.quiet_ray()  # importing ray.data sets its own log level

    reader = ray.data.from_items([{"piece": index} for index in range(len(plan.pieces))])
    events = reader.map_batches(ReadPieces(plan), batch_size=1, batch_format="pyarrow")
    lanes = events.repartition(plan.num_lanes, keys=["lane"])
    done = lanes.map_batches(GatherLanes(plan), batch_size=None, batch_format="pyarrow")
    done.take_all()
    if (mistake := plan.told()) is not None:
        raise UserError(mistake)


def _second_pass(plan: Plan, event_names: tuple[str, ...]) -> list[dict[str, Any]]:
    import ray.data

    cluster.quiet_ray()  # importing ray.data sets its own log level

    lanes = [int(path.stem) for path in _files(plan, "events")]
    tasks = ray.data.from_items([{"lane": lane} for lane in lanes])
    encode = EncodeLanes(plan, event_names)
    summaries = tasks.map_batches(encode, batch_size=1, batch_format="pyarrow").take_all()
    return sorted((json.loads(row["summary"]) for row in summaries), key=lambda summary: summary["lane"])


def _manifest(
    plan: Plan, report: ValidationReport, vocabulary: Vocabulary, names: tuple[str, ...], summaries: list[dict]
) -> Manifest:
    digest = hashlib.sha256(json.dumps([names, plan.config.history, plan.labels]).encode())
    for name in ("vocabulary.arrow", "catalog.arrow", "rows.arrow"):
        digest.update((plan.version / name).read_bytes())
    digest.update("".join(summary["digest"] for summary in summaries).encode())
    totals = {label: np.sum([s["labels"][label] for s in summaries], axis=0) for label in plan.labels}
    times = [time for summary in summaries for time in summary["times"] if time is not None]
    num_events = sum(summary["events"] for summary in summaries)
    assert num_events == report.kept, f"{report.kept} events were kept, {num_events} are in the shards"
    return Manifest(
        project=plan.config.project,
        version=plan.version.name,
        fingerprint=digest.hexdigest(),
        num_users=sum(summary["users"] for summary in summaries),
        num_items=vocabulary.num_items,
        num_events=num_events,
        events_by_split={mark: sum(s["marks"][mark] for s in summaries) for mark in ("train", "valid", "test")},
        event_names=names,
        history=plan.config.history or names,
        labels=plan.labels,
        label_means={label: float(total / max(count, 1)) for label, (total, count) in totals.items()},
        shards=tuple(summary["shard"] for summary in summaries),
        time_range=(min(times), max(times)) if times else None,
        rows=report.rows,
        kept=report.kept,
        rejected=report.rejected,
        config=plan.config.model_dump(mode="json"),
    )


def _event_names(plan: Plan) -> tuple[str, ...]:
    found = {name for path in _files(plan, "events") for name in pc.unique(read_arrow(path)["event"]).to_pylist()}
    names = tuple(sorted(found))
    if len(names) > MAX_EVENT_NAMES:
        raise UserError(
            f"event: the logs name {len(names):,} kinds of events ({', '.join(names[:3])}, ...), at most "
            f"{MAX_EVENT_NAMES} are possible; columns.event is to hold a kind (click, purchase), not an id"
        )
    for wanted in plan.config.history:
        if wanted not in names:
            raise UserError(
                f"history: no event {wanted!r} in the logs{nearest(wanted, names)} (found: {', '.join(names)})"
            )
    return names


def _total_report(plan: Plan) -> ValidationReport:
    return ValidationReport.total(ValidationReport(**json.loads(path.read_text())) for path in _files(plan, "reports"))


def _refuse_bad_logs(plan: Plan, report: ValidationReport) -> None:
    where = ", ".join(sorted({source.path or str(getattr(source, "format", "")) for source in plan.config.sources}))
    if report.rows == 0:
        raise UserError(f"{where}: the log is empty; nothing to ingest")
    share = (report.rows - report.kept) / report.rows
    if report.kept and share <= plan.config.max_rejected:
        return
    counts = ", ".join(f"{rule} {count:,}" for rule, count in sorted(report.rejected.items()))
    samples = pa.concat_tables([pq.read_table(path) for path in sorted((plan.version / "rejected").glob("[0-9]*"))])
    shown = "".join(
        f"\n  {row['source']}:{row['row']} {row['rule']}: {row['record'][:200]}"
        for row in samples.slice(0, _SAMPLES_SHOWN).to_pylist()
    )
    limit = "no row is good" if not report.kept else f"max_rejected is {plan.config.max_rejected:.0%}"
    raise UserError(
        f"{where}: {report.rows - report.kept:,} of {report.rows:,} rows ({share:.1%}) are rejected ({counts}), "
        f"and {limit}; mend the log or the column mapping, or raise max_rejected. The first:{shown}"
    )


def _items(formats: list[EventFormat]) -> Iterator[pa.Table]:
    for part in formats:
        table = part.items()
        if table is not None:
            yield table


def _num_lanes(config: IngestConfig, pieces: list[tuple[int, Piece]]) -> int:
    return max(1, -(-_source_bytes(pieces) // config.shard_bytes))


def _source_bytes(pieces: list[tuple[int, Piece]]) -> int:
    paths = {piece.path for _, piece in pieces}
    generated = sum(32 << 20 for _, piece in pieces if piece.path.startswith("synthetic:"))
    return generated + sum(os.path.getsize(path) for path in paths if os.path.exists(path))


def _files(plan: Plan, kind: str) -> list[Path]:
    return sorted((plan.staging / kind).glob("[0-9]*"))  # a task that was killed may leave a hidden partial file


def _rows(plan: Plan) -> Path:
    return plan.version / "rows.arrow"
