"""What a person wants to know of a dataset before training on it, as plain values: the facts behind `raysys data show`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.dataset import MANIFEST, Dataset, versions
from raysys.data.files import read_arrow
from raysys.data.scan import Moments, Scan
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, LABEL_PREFIX, NUMBER_PREFIX, Split

MARKS: Final = {mark: mark.name.lower() for mark in (Split.GIVEN, Split.TRAIN, Split.VALID, Split.TEST)}
"""Marks that events carry, with their names for people."""
EXAMPLES_PER_RULE: Final = 3
_PERCENTILES = (10, 25, 50, 75, 90, 99, 100)
_TOP = {"0.1%": 0.001, "1%": 0.01, "10%": 0.1}
_CURVE_POINTS = 200
_TOP_VALUES = 5


@dataclass(frozen=True)
class Stage:
    """One kind of event, as a stage of the funnel."""

    event: str
    events: int
    by_split: dict[str, int]
    users: int
    pairs: int
    """Distinct pairs of user and item; items outside the vocabulary are left out."""
    share_of_previous: float | None
    """Share of the pairs of the stage before that have an event of this kind too, whenever; null for the first."""


@dataclass(frozen=True)
class Lengths:
    """History events per user in training."""

    mean: float
    percentiles: dict[str, float]
    edges: list[int]
    """Bin i of `users` holds the lengths from edges[i] to below edges[i + 1]."""
    users: list[int]


@dataclass(frozen=True)
class Popularity:
    """History events per item in training."""

    share_of_top: dict[str, float]
    """Share of the events that the most popular 0.1, 1 and 10 % of the items take (at least one item)."""
    gini: float
    """0: all items equal, 1: one item takes everything."""
    once: int
    never: int
    """Items that training knows from other events than history alone."""
    curve: list[tuple[int, int]]
    """(rank from 1, events) at ranks that grow geometrically."""


@dataclass(frozen=True)
class Times:
    """When things happened, UTC."""

    first: str
    last: str
    days: list[str]
    """First day of every bin."""
    days_per_bin: int
    events: dict[str, list[int]]
    """Events of each kind per bin."""
    hours_of_week: list[int]
    """Events in each of the 168 hours of a week, from Monday 00:00."""
    boundaries: dict[str, str]
    """From when events validate and test, where the split is a date for all users."""


@dataclass(frozen=True)
class Numbers:
    """A label or a number of the context."""

    known: int
    known_share: float
    known_share_by_event: dict[str, float]
    """Of the kinds of events that carry it."""
    mean: float | None
    training_mean: float | None
    """Of labels alone."""
    deviation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Categories:
    """A category of the context."""

    values: int
    known_share: float
    """Share of the events with a value that training knows."""
    top: dict[str, int]
    """Events of the most frequent values."""


@dataclass(frozen=True)
class Feature:
    """A column that describes items or users."""

    kind: str
    covered: float
    """Share of the items or users for which it is known."""
    values: int | None = None
    """Distinct values of a category, length of a vector."""


@dataclass(frozen=True)
class VersionFacts:
    """One version of a dataset, in a line."""

    version: str
    written: str
    """When its manifest was written, UTC."""
    users: int
    items: int
    events: int
    parent: str | None
    fingerprint: str
    files: int


@dataclass(frozen=True)
class Profile:
    """Everything `raysys data show` tells."""

    path: str
    project: str
    version: VersionFacts
    users: int
    items: int
    events: int
    density: float
    """Share of all pairs of user and item that have an event."""
    outside: int
    """Events whose item no training event names."""
    forgotten: int
    history: list[str]
    rows: dict[str, Any]
    """read, kept, rejected {rule: rows}, cleaned {reason: rows}; read is the sum of the rest."""
    funnel: list[Stage]
    lengths: Lengths
    popularity: Popularity
    times: Times | None
    labels: dict[str, Numbers]
    numbers: dict[str, Numbers]
    categories: dict[str, Categories]
    item_features: dict[str, Feature]
    user_features: dict[str, Feature]
    rejected_examples: dict[str, list[dict[str, Any]]]
    files: list[dict[str, Any]]
    """path, size and modified of every file that was read."""
    versions: list[VersionFacts]


def profile(dataset: Dataset) -> Profile:
    """Return the facts of a dataset; goes over its shards once, one at a time.

    Raises:
        UserError: a file of the dataset is missing.
    """
    manifest, catalog = dataset.manifest, dataset.catalog
    scan = Scan(manifest, manifest.num_items + FIRST_ITEM)
    for path in dataset.shard_paths:
        scan.add(read_arrow(path))
    cells = max(manifest.num_users * manifest.num_items, 1)
    rows = {"read": manifest.rows, "kept": manifest.kept, "rejected": manifest.rejected, "cleaned": manifest.cleaned}
    users = dataset.path / "users.arrow"
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
        versions=[version_facts(Dataset.open(path)) for path in versions(dataset.path.parent)],
    )


def version_facts(dataset: Dataset) -> VersionFacts:
    """Return what tells a version from its neighbours."""
    one = dataset.manifest
    seconds = int((dataset.path / MANIFEST).stat().st_mtime)
    counts = (one.num_users, one.num_items, one.num_events)
    return VersionFacts(
        one.version, moment(seconds * 1000), *counts, one.parent, one.fingerprint, len(files_read(dataset.path))
    )


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
            found[rest or name] = Feature(rest and kind or "text", known / max(len(column), 1), _size(column))
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
    gini = float((size + 1 - 2 * (np.arange(1, size + 1) * counts[::-1][::-1]).sum() / total) / max(size, 1))
    ranks = np.unique(np.geomspace(1, max(size, 1), _CURVE_POINTS).round().astype(np.int64))[: size or None]
    curve = [(int(rank), int(counts[rank - 1])) for rank in ranks] if size else []
    return Popularity(top, gini, int(np.sum(counts == 1)), int(np.sum(counts == 0)), curve)
