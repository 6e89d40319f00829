"""What an ingestion will read, told before it reads: files, pieces, the unit of times, the fields of events."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysys.data.append import unread
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset
from raysys.data.formats.source import EventFormat, Piece
from raysys.data.passes.plan import format_of
from raysys.data.places import File, list_files
from raysys.data.schema import Fields
from raysys.data.tables import ItemsConfig, TableConfig, UsersConfig, table_pieces
from raysys.data.times import detect_unit
from raysys.errors import UserError

_SAMPLE_ROWS = 10_000


@dataclass(frozen=True)
class Inventory:
    """The parts of a log, in the order that breaks ties."""

    pieces: tuple[tuple[int, Piece], ...]  # (index of the source, piece numbered over all sources)
    user_pieces: tuple[Piece, ...]
    units: tuple[str | None, ...]  # of each source's times
    fields: Fields  # what the sources' events carry
    files: dict[str, File]
    remarks: tuple[str, ...]  # what was found out about the log, for people


def take_inventory(config: IngestConfig, base: Dataset | None) -> Inventory:
    """List what there is to read; with a base only what that version has not read.

    Raises:
        UserError: a source is missing or empty, its times are ambiguous, or two parts of the config contradict.
    """
    formats = [format_of(source) for source in config.sources]
    pieces = [(which, piece) for which, form in enumerate(formats) for piece in form.pieces()]
    if not pieces:
        raise UserError(f"{', '.join(source.path for source in config.sources)}: the log is empty; nothing to ingest")
    files = _files(config, {piece.path for _, piece in pieces})
    if base is not None:
        pieces = unread(pieces, files, base)
    fields = Fields.union(form.fields for form in formats)
    for label in config.labels:
        if label in fields.labels:
            raise UserError(f"labels.{label}: a source has a label of this name; name one of them otherwise")
    earlier = _earlier_units(base)
    units = tuple(
        earlier.get(_unit_key(form.config.model_dump(mode="json")))
        or _unit(form, [piece for other, piece in pieces if other == which])
        for which, form in enumerate(formats)
    )
    numbered = tuple((which, dataclasses.replace(piece, index=at)) for at, (which, piece) in enumerate(pieces))
    return Inventory(
        pieces=numbered,
        user_pieces=tuple(table_pieces(config.users)) if config.users else (),
        units=units,
        fields=fields,
        files=files,
        remarks=tuple(_remark(source, unit) for source, unit in zip(config.sources, units, strict=True) if unit),
    )


def without_dropped(config: IngestConfig) -> IngestConfig:
    """Return the config without the mappings of dropped columns.

    Raises:
        UserError: an id, a time or an event is to be read from a dropped column.
    """
    sources = []
    for source in config.sources:
        columns = getattr(source, "columns", None)
        changed = {} if columns is None else {"columns": columns.without(config.drop)}
        sources.append(source.model_copy(update=changed))
    return config.model_copy(update={"sources": tuple(sources)})


def shard_fields(config: IngestConfig, fields: Fields, log_labels: Sequence[str] = ()) -> Fields:
    """Return what the events of a shard carry: the log's fields, joined labels, and features that change over time."""
    changing = [
        _changing(table, side, config.drop) for table, side in ((config.users, "user"), (config.items, "item")) if table
    ]
    return Fields.union([Fields(tuple(log_labels)), fields, Fields(labels=tuple(config.labels)), *changing])


def describe(config: IngestConfig) -> dict[str, Any]:
    """Tell what `ingest` would read, without reading it: for --dry-run."""
    formats = [format_of(source) for source in config.sources]
    inventory = take_inventory(config, None)
    counts = [form.estimate_rows() for form in formats]
    rows = None if None in counts else sum(count or 0 for count in counts)
    size = sum(file.size for file in inventory.files.values())
    shard = min(rows or config.events_per_shard, config.events_per_shard)
    return {
        "project": config.project,
        "sources": [source.model_dump(mode="json") for source in config.sources],
        "files": len(inventory.files),
        "pieces": len(inventory.pieces),
        "rows": rows,
        "times": dict(zip((source.path for source in config.sources), inventory.units, strict=True)),
        "source_bytes": size,
        "expected_disk_bytes": max(size * 4, (rows or 0) * 100),
        "expected_memory_bytes": (768 << 20) + shard * 512,
    }


def _earlier_units(base: Dataset | None) -> dict[str, str]:
    """Return the units that sources of an earlier version had: a day alone may not tell."""
    if base is None:
        return {}
    sources = base.manifest.config["sources"]
    return {_unit_key(node): unit for node, unit in zip(sources, base.manifest.time_units, strict=True) if unit}


def _unit_key(source: dict[str, Any]) -> str:
    return json.dumps([source["path"], source["format"], source.get("columns", {}).get("timestamp")])


def _unit(form: EventFormat, pieces: Sequence[Piece]) -> str | None:
    """Return the unit of a source's times: the config's or the format's own, or what its first rows show."""
    if form.time_unit != "auto":
        columns = getattr(form.config, "columns", None)
        return form.time_unit if columns is None or columns.timestamp is not None else None
    for piece in pieces:
        for raw in form.read(piece):
            times = raw.table["timestamp"]
            if isinstance(times, pa.Array):
                times = pa.chunked_array([times])
            if pa.types.is_null(times.type):
                return None
            if len(times):
                return detect_unit(times.slice(0, _SAMPLE_ROWS), f"{piece.path}: columns.timestamp")
            break
    return None


def _files(config: IngestConfig, read: set[str]) -> dict[str, File]:
    """Return the files that pieces are read from, in the order of the sources; generated logs stand for themselves."""
    found = {file.path: file for source in config.sources if source.path for file in list_files(source.path)}
    generated = {path: File(path, 0, "") for path in sorted(read) if path not in found}
    return {path: file for path, file in found.items() if path in read} | generated


def _changing(table: TableConfig, side: str, drop: Sequence[str]) -> Fields:
    assert isinstance(table, ItemsConfig | UsersConfig)
    if table.timestamp is None:
        return Fields()
    return Fields(
        numbers=tuple(f"{side}.{name}" for name in table.numbers if name not in drop),
        categories=tuple(f"{side}.{name}" for name in table.categories if name not in drop),
    )


def _remark(source: Any, unit: str) -> str:
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "iso": "ISO text"}
    return f"{source.path or source.format}: times in {names.get(unit, 'Arrow timestamps')}"
