"""Named rules that a row must pass. A row that breaks one is kept aside with the rule's name; none is lost."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from raysys.component import FrozenConfig
from raysys.data.schema import CATEGORY_PREFIX, LABEL_PREFIX, NUMBER_PREFIX, REQUEST_ID
from raysys.data.times import to_milliseconds
from raysys.data.values import as_text, is_blank, plain, to_floats

REJECTED: Final = pa.schema(
    [
        pa.field("rule", pa.string()),
        pa.field("source", pa.string()),
        pa.field("row", pa.int64()),  # line or row number within the source file, from 1; null where offset says it
        pa.field("offset", pa.int64()),  # byte in the source file where the line begins, of files read in parts
        pa.field("record", pa.string()),  # the original values, as JSON or as the line itself
    ]
)
"""Schema of the parquet files under rejected/."""

MALFORMED_LINE: Final = "malformed_line"
"""Name under which lines that are no rows at all are rejected."""

UNEQUAL_LISTS: Final = "unequal_lists"
"""Rule, and the column of raw tables with the JSON of a row's lists where these differ in length (else null)."""

RULES: Final = (
    "missing_user",
    "missing_item",
    "missing_event",
    "unknown_event",
    "unreadable_time",
    "future_time",
    "not_a_number",
    "not_finite",
    "out_of_range",
    UNEQUAL_LISTS,
)
"""Names of the rules, in the order in which they are tried. Of a row with unequal lists nothing else is known."""


class RulesConfig(FrozenConfig):
    """Which rows are rejected beyond those that cannot be read at all."""

    ranges: dict[str, tuple[float, float]] = {}
    """Name of a label or number -> lowest and highest value; a row with a value outside is rejected."""
    duplicates: bool = True
    """Reject all but the first of events that are equal in every column."""
    max_events_per_minute: int | None = Field(None, ge=1)
    """Reject the events of a user in minutes with more of them than this: robots, mostly."""
    future: bool = True
    """Reject events later than the start of the ingestion."""

    @field_validator("ranges")
    @classmethod
    def _low_before_high(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in value.items():
            if not low <= high:
                raise ValueError(f"{name}: the lowest value ({low}) must be at most the highest ({high})")
        return value


@dataclass(frozen=True)
class RowRules:
    """What the rules need to know about a source."""

    now_ms: int
    """Moment after which an event lies in the future; a very late one where that is allowed."""
    time_unit: str | None
    """Unit of its times, as `times.detect_unit` returns it or the config gives it; None for a log without times."""
    known_unit: bool
    """Whether the config gave the unit: then any number that is not negative is a time."""
    events: Mapping[str, str] | None
    """Value of the event column -> name of the event; None or empty where the values are the names."""
    ranges: Mapping[str, tuple[float, float]]
    """Name of a label or number, without its prefix -> lowest and highest value."""


@dataclass
class ValidationReport:
    """Counts of an ingestion: rows = kept + the sum of rejected + the sum of cleaned, always."""

    rows: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    cleaned: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def total(reports: Iterable["ValidationReport"]) -> "ValidationReport":
        """Add the reports of many pieces."""
        total = ValidationReport()
        for report in reports:
            total.rows += report.rows
            total.kept += report.kept
            for sums, counts in ((total.rejected, report.rejected), (total.cleaned, report.cleaned)):
                for name, count in counts.items():
                    sums[name] = sums.get(name, 0) + count
        return total


Verdicts = Iterator[tuple[str, np.ndarray | None]]


def validate(
    raw: pa.Table,
    malformed: pa.Table,
    source: str,
    rules: RowRules,
    by_offset: bool = False,
    keep_text: bool = True,
) -> tuple[pa.Table, pa.Table]:
    """Split raw rows into (EVENTS with further columns and `row`, without `position`; REJECTED rows).

    A row is rejected by the first rule that it breaks, in the order of RULES. With `by_offset` the column `row` holds
    byte offsets. Without `keep_text`, because a line would show what must not be kept, malformed lines are only counted
    and placed; a row's record shows the values of `raw`, so that these have to be safe already.

    Raises:
        UserError: a column is of a type that no text, number or time can be read from.
    """
    values = {name: plain(raw[name], name, source) for name in raw.column_names}
    columns: dict[str, pa.ChunkedArray] = {}
    verdict: np.ndarray | None = None
    for rule, breaks in _checks(values, columns, rules):
        if breaks is not None and breaks.any():
            verdict = np.full(raw.num_rows, -1, np.int8) if verdict is None else verdict
            verdict[breaks & (verdict < 0)] = RULES.index(rule)
    table = pa.table({**columns, "row": values["row"]})
    lines = _malformed(malformed, source, keep_text)
    if verdict is None:
        return table, _located(lines, by_offset)
    bad = np.flatnonzero(verdict >= 0)
    records = _records(pa.table(values).take(pa.array(bad)), keep_text)
    names = pa.array(RULES, pa.string()).take(pa.array(verdict[bad]))
    rejected = {"rule": names, "source": pa.repeat(source, len(bad)), "row": values["row"].take(pa.array(bad))}
    rows = pa.table({**rejected, "record": pa.array(records, pa.string())})
    return table.filter(pa.array(verdict < 0)), _located(pa.concat_tables([lines, rows]), by_offset)


def _checks(values: Mapping[str, pa.ChunkedArray], columns: dict[str, pa.ChunkedArray], rules: RowRules) -> Verdicts:
    """Cast the raw values into `columns`, and yield (rule, where it is broken [N] or None) on the way, in order.

    What cannot be cast becomes null.
    """
    if UNEQUAL_LISTS in values:
        yield UNEQUAL_LISTS, pc.is_valid(values[UNEQUAL_LISTS]).to_numpy()
    for name, rule in (("user_id", "missing_user"), ("item_id", "missing_item")):
        columns[name] = as_text(values[name])
        yield rule, is_blank(columns[name])
    yield from _check_events(values, columns, rules)
    yield from _check_times(values, columns, rules)
    found = [name for name in values if name.startswith((LABEL_PREFIX, NUMBER_PREFIX))]
    wrong = []
    for name in found:
        columns[name], broken = to_floats(values[name])
        wrong.append(broken)
    yield from (("not_a_number", broken) for broken in wrong)
    yield from (("not_finite", _not_finite(columns[name])) for name in found)
    for name in found:
        if (limits := rules.ranges.get(name.partition(".")[2])) is not None:
            inside = pc.and_(pc.greater_equal(columns[name], limits[0]), pc.less_equal(columns[name], limits[1]))
            yield "out_of_range", pc.invert(pc.fill_null(inside, True)).to_numpy()
    for name in values:
        if name.startswith(CATEGORY_PREFIX) or name == REQUEST_ID:
            text = as_text(values[name], is_id=name == REQUEST_ID)
            blank = is_blank(text)
            columns[name] = text if blank is None else pc.if_else(pa.array(~blank), text, None)


def _check_events(
    values: Mapping[str, pa.ChunkedArray], columns: dict[str, pa.ChunkedArray], rules: RowRules
) -> Verdicts:
    columns["event"] = as_text(values["event"])
    yield "missing_event", is_blank(columns["event"])
    if rules.events:
        places = pc.index_in(columns["event"], pa.array(list(rules.events), pa.string()))
        columns["event"] = pc.take(pa.array(list(rules.events.values()), pa.string()), places)
        yield "unknown_event", pc.is_null(places).to_numpy() if places.null_count else None


def _check_times(
    values: Mapping[str, pa.ChunkedArray], columns: dict[str, pa.ChunkedArray], rules: RowRules
) -> Verdicts:
    raw = values["timestamp"]
    times = columns["timestamp"] = to_milliseconds(raw, rules.time_unit, rules.known_unit)
    if pa.types.is_null(raw.type):  # a log without times
        return
    yield "unreadable_time", pc.is_null(times).to_numpy() if times.null_count else None
    latest = pc.max(times).as_py()
    if latest is not None and latest > rules.now_ms:
        yield "future_time", pc.fill_null(pc.greater(times, rules.now_ms), False).to_numpy()


def _not_finite(column: pa.ChunkedArray) -> np.ndarray | None:
    finite = pc.is_finite(column)
    if pc.all(finite).as_py() is not False:  # null where nothing is known
        return None
    return pc.invert(pc.fill_null(finite, True)).to_numpy()


def _malformed(lines: pa.Table, source: str, keep_text: bool) -> pa.Table:
    count = lines.num_rows
    return pa.table(
        {
            "rule": pa.repeat(MALFORMED_LINE, count),
            "source": pa.repeat(source, count),
            "row": lines["row"],
            "record": lines["record"] if keep_text else pa.nulls(count, pa.string()),
        }
    )


def _located(rows: pa.Table, by_offset: bool) -> pa.Table:
    unknown = pa.nulls(rows.num_rows, pa.int64())
    place = {"row": unknown, "offset": rows["row"]} if by_offset else {"row": rows["row"], "offset": unknown}
    columns = {"rule": rows["rule"], "source": rows["source"], **place, "record": rows["record"]}
    return pa.table(columns, schema=REJECTED)


def _records(rows: pa.Table, keep_text: bool) -> list[str]:
    names = [name for name in rows.column_names if name not in ("row", UNEQUAL_LISTS)]
    records = [dict(zip(names, record, strict=True)) for record in zip(*(_values(rows[n]) for n in names), strict=True)]
    if UNEQUAL_LISTS in rows.column_names:
        for record, lists in zip(records, rows[UNEQUAL_LISTS].to_pylist(), strict=True):
            given = json.loads(lists or "{}")
            record.update({name: value for name, value in given.items() if keep_text or name != "user_id"})
    return [json.dumps(record, default=_printable) for record in records]


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # times that Python cannot hold
        return pc.cast(column, pa.int32() if pa.types.is_date32(column.type) else pa.int64()).to_pylist()


def _printable(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
