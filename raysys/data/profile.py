"""Measures a dataset before anything trains on it: the facts behind `raysys data show`."""

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.dataset import MANIFEST, Dataset, versions
from raysys.data.facts import (
    Categories,
    Feature,
    Lengths,
    Numbers,
    Popularity,
    Profile,
    Stage,
    Times,
    VersionFacts,
)
from raysys.data.files import read_arrow
from raysys.data.scan import Scan
from raysys.data.schema import FIRST_ITEM, LABEL_PREFIX, NUMBER_PREFIX, Split
from raysys.data.times import milliseconds
from raysys.errors import UserError

MARKS: Final = {mark: mark.name.lower() for mark in (Split.GIVEN, Split.TRAIN, Split.VALID, Split.TEST)}
"""Marks that events carry, with their names for people."""
EXAMPLES_PER_RULE: Final = 3
_PERCENTILES = (10, 25, 50, 75, 90, 99, 100)
_TOP = {"0.1%": 0.001, "1%": 0.01, "10%": 0.1}
_CURVE_POINTS = 200
_TOP_VALUES = 5


def profile(dataset: Dataset) -> Profile:
    """Return the facts of a dataset; goes over its shards once, one at a time.

    Raises:
        UserError: a file of the dataset is missing, or it is a view of another dataset.
    """
    manifest, catalog = dataset.manifest, dataset.catalog
    if manifest.view is not None:
        raise UserError(f"{dataset.path}: a view of {manifest.view.of} with fewer items; show that one")
    scan = Scan(manifest, manifest.num_items + FIRST_ITEM)
    for path in dataset.shard_paths:
        scan.add(read_arrow(path))
    cells = max(manifest.num_users * manifest.num_items, 1)
    rows = {"read": manifest.rows, "kept": manifest.kept, "rejected": manifest.rejected, "cleaned": manifest.cleaned}
    users = dataset.users_path
    return Profile(
        path=str(dataset.path),
        project=manifest.project,
        version=version_facts(dataset),
        users=manifest.num_users,
        items=manifest.num_items,
        events=manifest.num_events,
        density=scan.pairs / cells,
        outside=scan.outside,
        forgotten=manifest.forgotten,
        history=list(manifest.history),
        rows=rows,
        funnel=_funnel(manifest.event_names, scan),
        lengths=_lengths(dataset.rows["train_tokens"].to_numpy()),
        popularity=_popularity(catalog.popularity[FIRST_ITEM:]),
        times=_times(dataset, scan),
        labels={name: _numbers(dataset, scan, LABEL_PREFIX, name) for name in manifest.labels},
        numbers={name: _numbers(dataset, scan, NUMBER_PREFIX, name) for name in manifest.numbers},
        categories={name: _categories(dataset, scan, name) for name in manifest.categories},
        item_features=features(catalog.table),
        user_features=features(read_arrow(users)) if users.exists() else {},
        rejected_examples=rejected_examples(dataset),
        files=files_read(dataset.path),
        versions=[version_facts(one) for one in siblings(dataset)],
    )


def version_facts(dataset: Dataset) -> VersionFacts:
    """Return what tells a version from its neighbours."""
    one = dataset.manifest
    seconds = int((dataset.path / MANIFEST).stat().st_mtime)
    counts = (one.num_users, one.num_items, one.num_events)
    return VersionFacts(
        one.version, moment(seconds * 1000), *counts, one.parent, one.fingerprint, len(files_read(dataset.path))
    )


def siblings(dataset: Dataset) -> list[Dataset]:
    """Return the versions beside a dataset that this raysys can read, itself too, oldest first."""
    paths = versions(dataset.path.parent)
    found = []
    for path in paths if dataset.path in paths else [dataset.path]:
        with contextlib.suppress(UserError):
            found.append(Dataset.open(path))
    return found


def files_read(version: Path) -> list[dict[str, Any]]:
    """Return path, size and time of change of every file that a dataset version has read."""
    path = version / "files.json"
    return json.loads(path.read_text()) if path.exists() else []


def moment(milliseconds: int) -> str:
    """Return a time as ISO text, UTC, to the second: any i64 ms has one."""
    return str(np.datetime_as_string(np.datetime64(milliseconds, "ms"), unit="s")).replace("T", " ")


def rejected_examples(dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    """Return the first rejected rows of every rule: source, row or offset, and the record as it stood in the log."""
    found: dict[str, list[dict[str, Any]]] = {rule: [] for rule in dataset.manifest.rejected}
    missing = dict.fromkeys(found, EXAMPLES_PER_RULE)
    for path in sorted((dataset.path / "rejected").glob("[!.]*.parquet")):
        if not missing:
            break
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            rules = file.read_row_group(group, ["rule"])["rule"]
            chosen = {rule: pc.indices_nonzero(pc.equal(rules, rule))[:number] for rule, number in missing.items()}
            if any(map(len, chosen.values())):
                table = file.read_row_group(group)
                for rule, places in chosen.items():
                    found[rule] += table.take(places).select(["source", "row", "offset", "record"]).to_pylist()
            missing = {rule: EXAMPLES_PER_RULE - len(rows) for rule, rows in found.items()}
            missing = {rule: number for rule, number in missing.items() if number}
    return found


def features(table: pa.Table) -> dict[str, Feature]:
    """Return what is known of the rows of a catalog, or of a table of users, column by column."""
    found = {}
    for name in table.column_names:
        kind, _, rest = name.partition(".")
        if rest or name == "title":
            column = table[name]
            lists = pa.types.is_list(column.type)
            given = pc.sum(pc.greater(pc.list_value_length(column), 0)).as_py() if lists else None
            known = len(column) - column.null_count if given is None else given
            found[rest or name] = Feature((rest and kind) or "text", known / max(len(column), 1), _size(column))
    return found


def _size(column: pa.ChunkedArray) -> int | None:
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    inner = column.type.value_type if pa.types.is_list(column.type) else column.type
    if not pa.types.is_dictionary(inner) or not column.num_chunks:
        return None
    chunk = column.chunk(0)
    return len((chunk.values if pa.types.is_list(column.type) else chunk).dictionary)


def _funnel(names: tuple[str, ...], scan: Scan) -> list[Stage]:
    pairs = scan.shared_pairs.diagonal()
    stages: list[Stage] = []
    order = np.argsort(-pairs[: len(names)], kind="stable").tolist()
    for before, kind in zip([None, *order], order, strict=False):
        reached = None if before is None else float(scan.shared_pairs[before, kind] / max(pairs[before], 1))
        counts = scan.events[kind].tolist()
        by_split = {name: counts[mark + 1] for mark, name in MARKS.items() if mark >= Split.TRAIN or counts[mark + 1]}
        stages.append(Stage(names[kind], sum(counts), by_split, int(scan.users[kind]), int(pairs[kind]), reached))
    return stages


def _lengths(lengths: np.ndarray) -> Lengths:
    if not len(lengths):
        return Lengths(0.0, {}, [], [])
    powers = 1 << np.arange(int(lengths.max()).bit_length() + 1)
    edges = np.unique(np.concatenate([[0], powers, powers + powers // 2]))  # two bins per doubling
    edges = edges[: np.searchsorted(edges, lengths.max(), side="right") + 1]
    users = np.bincount(np.searchsorted(edges, lengths, side="right") - 1, minlength=len(edges) - 1)
    percentiles = {f"p{q}": float(np.percentile(lengths, q)) for q in _PERCENTILES}
    return Lengths(float(lengths.mean()), percentiles, edges.tolist(), users.tolist())


def _popularity(counts: np.ndarray) -> Popularity:
    counts = np.sort(counts.astype(np.float64))[::-1]
    total, size = max(counts.sum(), 1.0), len(counts)
    top = {name: float(counts[: max(1, int(size * share))].sum() / total) for name, share in _TOP.items()}
    gini = float((size + 1 - 2 * (np.arange(1, size + 1) * counts).sum() / total) / max(size, 1))
    ranks = np.unique(np.geomspace(1, max(size, 1), _CURVE_POINTS).round().astype(np.int64))[: size or None]
    curve = [(int(rank), int(counts[rank - 1])) for rank in ranks] if size else []
    return Popularity(top, gini, int(np.sum(counts == 1)), int(np.sum(counts == 0)), curve)


def _times(dataset: Dataset, scan: Scan) -> Times | None:
    span, names = dataset.manifest.time_range, dataset.manifest.event_names
    if span is None:
        return None
    firsts = (scan.first_day + np.arange(scan.days.shape[1]) * scan.days_per_bin).astype("datetime64[D]")
    split = dataset.manifest.config.get("split", {})
    starts = {mark: split[f"{mark}_from"] for mark in ("valid", "test") if split.get(f"{mark}_from")}
    return Times(
        first=moment(span[0]),
        last=moment(span[1]),
        days=np.datetime_as_string(firsts).tolist(),
        days_per_bin=scan.days_per_bin,
        events={name: scan.days[kind].tolist() for kind, name in enumerate(names)},
        hours_of_week=scan.hours.tolist(),
        boundaries={
            mark: moment(milliseconds(datetime.fromisoformat(start))) for mark, start in starts.items() if start
        },
    )


def _numbers(dataset: Dataset, scan: Scan, prefix: str, name: str) -> Numbers:
    manifest, moments = dataset.manifest, scan.columns[prefix + name]
    known, of_kind = moments.known_by_kind, scan.events.sum(axis=1)
    carried = {kind: known[at] / of_kind[at] for at, kind in enumerate(manifest.event_names) if known[at]}
    found = (moments.mean, moments.deviation, moments.low, moments.high) if moments.count else (None,) * 4
    return Numbers(
        known=moments.count,
        known_share=moments.count / max(manifest.num_events, 1),
        known_share_by_event={kind: float(share) for kind, share in carried.items()},
        mean=found[0],
        training_mean=manifest.label_means.get(name) if prefix == LABEL_PREFIX else None,
        deviation=found[1],
        low=found[2],
        high=found[3],
    )


def _categories(dataset: Dataset, scan: Scan, name: str) -> Categories:
    counts = scan.categories[name][FIRST_ITEM:]
    values = dataset.category_values(name).item_ids
    top = np.argsort(-counts, kind="stable")[:_TOP_VALUES]
    names = values.take(pa.array(top)).to_pylist()
    known = counts.sum() / max(dataset.manifest.num_events, 1)
    return Categories(len(values), float(known), dict(zip(names, counts[top].tolist(), strict=True)))
