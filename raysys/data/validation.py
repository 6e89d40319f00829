"""Named rules that a row must pass. A row that breaks one is kept aside with the rule's name; none is lost."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.schema import EVENTS, LABEL_PREFIX

REJECTED = pa.schema(
    [
        pa.field("rule", pa.string()),
        pa.field("source", pa.string()),
        pa.field("row", pa.int64()),  # line or row number within the source file, from 1
        pa.field("record", pa.string()),  # the original values, as JSON or as the line itself
    ]
)
"""Schema of the parquet files under rejected/."""


@dataclass
class ValidationReport:
    """Counts of an ingestion: rows = kept + the sum of rejected, always."""

    rows: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def total(reports: Iterable["ValidationReport"]) -> "ValidationReport":
        """Add the reports of many pieces."""
        total = ValidationReport()
        for report in reports:
            total.rows += report.rows
            total.kept += report.kept
            for rule, count in report.rejected.items():
                total.rejected[rule] = total.rejected.get(rule, 0) + count
        return total


def validate(raw: pa.Table, malformed: pa.Table, source: str, now_ms: int) -> tuple[pa.Table, pa.Table]:
    """Split raw rows into (EVENTS with labels and without position, REJECTED rows).

    A row is rejected by the first rule that it breaks, in the order of RULES.
    """
    table = _as_events(raw)
    verdict = np.full(table.num_rows, "", dtype=object)
    for name, broken in RULES.items():
        fails = broken(raw, table, now_ms).to_numpy(zero_copy_only=False).astype(bool)
        verdict[fails & (verdict == "")] = name
    bad = np.flatnonzero(verdict != "")
    rejected = _rejected(raw.take(pa.array(bad)), verdict[bad], source)
    lines = pa.table(
        {
            "rule": pa.repeat(pa.scalar("malformed_line"), malformed.num_rows),
            "source": pa.repeat(pa.scalar(source), malformed.num_rows),
            "row": malformed["row"],
            "record": malformed["record"],
        },
        schema=REJECTED,
    )
    kept = table if len(bad) == 0 else table.filter(pa.array(verdict == ""))
    return kept, pa.concat_tables([lines, rejected])


def to_milliseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read times as i64 ms since 1970: numbers in s, ms or us (told by size), ISO text, Arrow times; else null.

    Below 1e11 a number is seconds (until year 5138), below 1e14 milliseconds, otherwise microseconds.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pc.cast(pc.cast(column, pa.timestamp("ms", getattr(kind, "tz", None)), safe=False), pa.int64())
    if pa.types.is_null(kind):
        return pc.cast(column, pa.int64())
    numbers = column if not _is_text(kind) else _parse(column, pa.float64())
    if not pa.types.is_integer(kind):
        finite = pc.if_else(pc.is_finite(pc.cast(numbers, pa.float64())), numbers, None)
        iso = _iso(column) if _is_text(kind) else pa.nulls(len(column), pa.int64())
        return pc.coalesce(_scale(finite), iso)
    return _scale(numbers)


def _scale(numbers: Any) -> Any:
    value = pc.cast(numbers, pa.float64())
    size = pc.abs(value)
    scaled = pc.if_else(
        pc.less(size, 1e11),
        pc.multiply(value, 1000.0),
        pc.if_else(pc.less(size, 1e14), value, pc.divide(value, 1000.0)),
    )
    sane = pc.if_else(pc.less(pc.abs(scaled), 1e15), scaled, None)
    return pc.cast(pc.round(sane), pa.int64())


def _iso(column: Any) -> Any:
    from datetime import UTC, datetime

    def read(text: str | None) -> int | None:
        try:
            time = datetime.fromisoformat(text or "")
        except ValueError:
            return None
        return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)

    numeric = pc.match_substring_regex(column, r"^\s*[-+]?[0-9.eE+-]+\s*$")
    texts = pc.if_else(pc.fill_null(numeric, False), None, column)
    return pa.array([read(text) for text in texts.to_pylist()], pa.int64())


def _as_events(raw: pa.Table) -> pa.Table:
    """Cast raw columns to the types of EVENTS; what cannot be cast becomes null, for the rules to find."""
    columns = {name: _text(raw[name]) for name in ("user_id", "item_id", "event")}
    columns["timestamp"] = to_milliseconds(raw["timestamp"])
    for name in raw.column_names:
        if name.startswith(LABEL_PREFIX):
            columns[name] = pc.cast(_numbers(raw[name]), pa.float32())
    return pa.table(columns)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        valid = [_decodes(value) for value in column.to_pylist()] if not _casts(column) else None
        column = pc.if_else(pa.array(valid), column, None) if valid else column
    if pa.types.is_floating(kind):  # 12.0 from a file with gaps is id 12
        whole = pc.equal(pc.floor(column), column)
        column = pc.if_else(whole, column, None)
        column = pc.cast(column, pa.int64())
    return pc.utf8_trim_whitespace(pc.cast(column, pa.string()))


def _casts(column: pa.ChunkedArray) -> bool:
    try:
        pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return _parse(column, pa.float64()) if _is_text(column.type) else pc.cast(column, pa.float64())


def _parse(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Cast text to numbers, null where it is not one (Arrow's own cast would raise for the whole column)."""
    trimmed = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    looks = pc.match_substring_regex(trimmed, r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$")
    return pc.cast(pc.if_else(pc.fill_null(looks, False), trimmed, None), kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def _blank(column: pa.ChunkedArray) -> Any:
    return pc.or_(pc.is_null(column), pc.equal(pc.fill_null(column, ""), ""))


def _had_value(column: pa.ChunkedArray) -> Any:
    """True where the raw value was given: only then is a null after casting an error."""
    return pc.invert(_blank(_text(column))) if _is_text(column.type) else pc.is_valid(column)


def _bad_time(raw: pa.Table, table: pa.Table, _: int) -> Any:
    if pa.types.is_null(raw["timestamp"].type) or raw["timestamp"].null_count == raw.num_rows == 0:
        return pa.array(np.zeros(raw.num_rows, bool))
    if pa.types.is_integer(raw["timestamp"].type) and raw["timestamp"].null_count == raw.num_rows:
        return pa.array(np.zeros(raw.num_rows, bool))  # a source without times
    return pc.is_null(table["timestamp"])


def _bad_label(raw: pa.Table, table: pa.Table, _: int) -> Any:
    broken = pa.array(np.zeros(raw.num_rows, bool))
    for name in table.column_names:
        if name.startswith(LABEL_PREFIX):
            number = pc.fill_null(pc.is_finite(table[name]), False)
            broken = pc.or_(broken, pc.and_(_had_value(raw[name]), pc.invert(number)))
    return broken


Rule = Callable[[pa.Table, pa.Table, int], Any]
RULES: dict[str, Rule] = {
    "missing_user": lambda raw, table, now: _blank(table["user_id"]),
    "missing_item": lambda raw, table, now: _blank(table["item_id"]),
    "missing_event": lambda raw, table, now: _blank(table["event"]),
    "unreadable_time": _bad_time,
    "future_time": lambda raw, table, now: pc.fill_null(pc.greater(table["timestamp"], now), False),
    "unreadable_label": _bad_label,
}
"""Rule name -> function(raw rows, cast rows, now in ms) that is true where a row breaks the rule."""

assert set(EVENTS.names) >= {"user_id", "item_id", "event", "timestamp"}


def _rejected(rows: pa.Table, rules: np.ndarray, source: str) -> pa.Table:
    values = rows.drop_columns(["row"]).to_pylist()
    return pa.table(
        {
            "rule": pa.array(list(rules), pa.string()),
            "source": pa.repeat(pa.scalar(source), rows.num_rows),
            "row": rows["row"],
            "record": pa.array([json.dumps(value, default=_printable) for value in values], pa.string()),
        },
        schema=REJECTED,
    )


def _printable(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
