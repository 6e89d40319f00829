"""Named rules that a row must pass. A row that breaks one is kept aside with the rule's name; none is lost."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.schema import EVENTS, LABEL_PREFIX
from raysys.errors import UserError

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

    Raises:
        UserError: a column is of a type that no text, number or time can be read from.
    """
    plain = pa.table({name: _plain(raw[name], name, source) for name in raw.column_names})
    table = _as_events(plain)
    verdict = np.full(table.num_rows, "", dtype=object)
    for name, broken in RULES.items():
        fails = broken(plain, table, now_ms).to_numpy(zero_copy_only=False).astype(bool)
        verdict[fails & (verdict == "")] = name
    bad = np.flatnonzero(verdict != "")
    rejected = _rejected(plain.take(pa.array(bad)), verdict[bad], source)
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
    if pa.types.is_null(kind):
        return pc.cast(column, pa.int64())
    if pa.types.is_timestamp(kind) and kind.unit == "s":
        return _sane(pc.multiply(pc.cast(pc.cast(column, pa.int64()), pa.float64(), safe=False), 1000.0))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        milliseconds = pc.cast(column, pa.timestamp("ms", getattr(kind, "tz", None)), safe=False)
        return _sane(pc.cast(pc.cast(milliseconds, pa.int64()), pa.float64(), safe=False))
    if not _is_text(kind):
        return _scale(pc.cast(column, pa.float64(), safe=False))
    text = _replaced(column)
    return pc.coalesce(_scale(_parse(text)), _iso(text))


def _scale(numbers: Any) -> Any:
    size = pc.abs(numbers)
    milliseconds = pc.if_else(
        pc.less(size, 1e11),
        pc.multiply(numbers, 1000.0),
        pc.if_else(pc.less(size, 1e14), numbers, pc.divide(numbers, 1000.0)),
    )
    return _sane(milliseconds)


def _sane(milliseconds: Any) -> Any:
    return pc.cast(pc.round(pc.if_else(pc.less(pc.abs(milliseconds), 1e15), milliseconds, None)), pa.int64())


def _iso(column: Any) -> Any:
    def read(text: str | None) -> int | None:
        try:
            time = datetime.fromisoformat((text or "").strip())
        except ValueError:
            return None
        return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)

    texts = pc.if_else(pc.match_substring_regex(column, "-|T|W"), column, None)  # most times are numbers: spare those
    return pa.array([read(text) for text in texts.to_pylist()], pa.int64())


def _plain(column: pa.ChunkedArray, name: str, source: str) -> pa.ChunkedArray:
    kind, of = column.type, pa.types
    if of.is_dictionary(kind):
        return _plain(pc.cast(column, kind.value_type), name, source)
    if of.is_large_string(kind) or of.is_string_view(kind):
        return pc.cast(column, pa.string())
    if of.is_large_binary(kind) or of.is_binary_view(kind) or of.is_fixed_size_binary(kind):
        return pc.cast(column, pa.binary())
    known = (of.is_null, of.is_boolean, of.is_integer, of.is_floating, of.is_decimal, of.is_timestamp, of.is_date)
    if not _is_text(kind) and not any(is_kind(kind) for is_kind in known):
        raise UserError(
            f"{source}: {name}: its column holds {kind} values; text, numbers or times are expected: map another column"
        )
    return column


def _as_events(raw: pa.Table) -> pa.Table:
    """Cast raw columns to the types of EVENTS; what cannot be cast becomes null, for the rules to find."""
    columns = {name: as_text(raw[name]) for name in ("user_id", "item_id", "event")}
    columns["timestamp"] = to_milliseconds(raw["timestamp"])
    for name in raw.column_names:
        if name.startswith(LABEL_PREFIX):
            columns[name] = pc.cast(_numbers(raw[name]), pa.float32())
    return pa.table(columns)


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read ids and names as text without white space around it; a whole number is its digits, 12.0 too."""
    kind = column.type
    if pa.types.is_binary(kind) and not _casts(column):
        column = pa.chunked_array([pa.array([_decoded(value) for value in column.to_pylist()], pa.string())])
    if pa.types.is_floating(kind):  # 12.0 from a file with gaps is id 12
        numbers = pc.cast(column, pa.float64())
        whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**63))
        column = pc.cast(pc.if_else(whole, numbers, None), pa.int64(), safe=False)
    return pc.utf8_trim_whitespace(pc.cast(column, pa.string()))


def _casts(column: pa.ChunkedArray) -> bool:
    try:
        pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _replaced(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text in which undecodable bytes are marked, so that it is no number and no time."""
    if not pa.types.is_binary(column.type) or _casts(column):
        return pc.cast(column, pa.string())
    texts = [None if value is None else value.decode(errors="replace") for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = pc.cast(column, pa.int64()) if not pa.types.is_date32(column.type) else pc.cast(column, pa.int32())
    return _parse(_replaced(column)) if _is_text(column.type) else pc.cast(column, pa.float64(), safe=False)


def _parse(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast text to f64, null where it is no number (Arrow's own cast would raise for the whole column)."""
    trimmed = pc.utf8_trim_whitespace(column)
    looks = pc.match_substring_regex(trimmed, r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$")
    unsigned = pc.replace_substring_regex(pc.if_else(pc.fill_null(looks, False), trimmed, None), r"^\+", "")
    return pc.cast(unsigned, pa.float64())


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def _blank(column: pa.ChunkedArray) -> Any:
    return pc.or_(pc.is_null(column), pc.equal(pc.fill_null(column, ""), ""))


def _had_value(column: pa.ChunkedArray) -> Any:
    """True where the raw value was given: only then is a null after casting an error."""
    if not _is_text(column.type):
        return pc.is_valid(column)
    return pc.invert(_blank(pc.utf8_trim_whitespace(_replaced(column))))


def _bad_time(raw: pa.Table, table: pa.Table, _: int) -> Any:
    if pa.types.is_null(raw["timestamp"].type):  # a log without times
        return pa.array(np.zeros(raw.num_rows, bool))
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
    names = [name for name in rows.column_names if name != "row"]
    records = zip(*(_values(rows[name]) for name in names), strict=True)
    texts = [json.dumps(dict(zip(names, record, strict=True)), default=_printable) for record in records]
    return pa.table(
        {
            "rule": pa.array(list(rules), pa.string()),
            "source": pa.repeat(pa.scalar(source), rows.num_rows),
            "row": rows["row"],
            "record": pa.array(texts, pa.string()),
        },
        schema=REJECTED,
    )


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # times that Python cannot hold
        return pc.cast(column, pa.int32() if pa.types.is_date32(column.type) else pa.int64()).to_pylist()


def _printable(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
