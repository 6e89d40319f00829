"""Moments and durations: of configs, and of the time columns of logs in whatever unit they are written."""

import contextlib
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from raysys.data.values import cast_or_none, is_text, parse_numbers, readable_text
from raysys.errors import UserError

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
"""How a log writes its times: numbers since 1970 in a unit, ISO text, or told from the values."""

_LENGTHS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION: Final = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)"
_RANGES: Final = {"s": (1e8, 1e10), "ms": (1e11, 1e13), "us": (1e14, 1e16), "ns": (1e17, 1e19)}  # 1973 to 2286
_MULTIPLY: Final = {"s": 1000, "ms": 1, "us": 1, "ns": 1}
_DIVIDE: Final = {"s": 1, "ms": 1, "us": 1000, "ns": 1_000_000}
_FARTHEST: Final = 10**15  # ms, some 30,000 years from 1970: what lies beyond is no time
_LARGEST: Final = 2**63 - 1
_NUDGE: Final = 5e-4  # ms; a double of 1700000000.123 s is a little less than that
_SAMPLE: Final = 10_000
_GARBAGE: Final = 0.01  # share of a sample that may contradict its unit
_SLICE: Final = 1 << 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _parse_duration(value: Any) -> int:
    found = re.fullmatch(_DURATION, value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is no duration; write a number and a unit: 7d, 12h, 30m, 45s or 500ms")
    return round(float(found[1]) * _LENGTHS[found[2]])


def _print_duration(value: int) -> str:
    unit = next((unit for unit, length in _LENGTHS.items() if value % length == 0), "ms")
    return f"{value // _LENGTHS[unit]}{unit}"


Duration = Annotated[
    int,
    BeforeValidator(_parse_duration),
    PlainSerializer(_print_duration),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION}$", "examples": ["7d", "12h", "30m", "45s", "500ms"]}),
]
"""Type of a config field written as 7d, 12h, 30m, 45s or 500ms; its value is milliseconds."""


def milliseconds(moment: datetime) -> int:
    """Return a moment as ms since 1970, rounded down; UTC where it names no zone."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


def detect_unit(column: pa.ChunkedArray, where: str) -> str | None:
    """Tell the unit of a time column from a sample of its values; `where` begins the message of an error.

    Returns one of s, ms, us, ns, iso; "arrow" for Arrow's own times; None for the null type, a log without times, and
    for a column without a value. Numbers that are not positive are passed over. Text that is neither a number nor a
    time does not count, as long as it is not most of the sample: its rows will be rejected.

    Raises:
        UserError: the values fit no unit, or 1% of them or more fit another one than the rest.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return None
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "arrow"
    sample = _sample(column)
    found = np.full(len(sample), "", dtype="U5")  # "other" is a number in no unit's range, "text" is neither
    if is_text(kind):
        text = readable_text(sample)
        numbers = parse_numbers(text)
        is_number = pc.is_valid(numbers).to_numpy()
        iso = pc.is_valid(_read_iso(text)).to_numpy()
        filled = pc.not_equal(pc.utf8_trim_whitespace(text), "").to_numpy()
        found[~is_number & filled] = np.where(iso, "iso", "text")[~is_number & filled]
    else:
        numbers = _as_doubles(sample, where)
    values = numbers.to_numpy()
    found[values > 0] = "other"
    for unit, (low, high) in _RANGES.items():
        found[(values >= low) & (values <= high)] = unit
    return _decide(found, sample, where)


def _decide(found: np.ndarray, sample: pa.ChunkedArray, where: str) -> str | None:
    names, firsts, counts = np.unique(found[found != ""], return_index=True, return_counts=True)
    if len(names) == 0:
        return None
    places = np.flatnonzero(found != "")[firsts]
    order = np.argsort(-counts, kind="stable")
    best = str(names[order[0]])
    rivals = int(counts[(names != best) & (names != "text")].sum())
    if best not in ("other", "text") and rivals < _GARBAGE * counts.sum():
        return best
    shown = [sample[int(place)].as_py() for place in places[order]]
    if len(shown) == 1:
        shown += [value for value in sample.unique().to_pylist()[:5] if value != shown[0]]
    raise UserError(
        f"{where}: the unit of these times cannot be told (such as {' and '.join(repr(v) for v in shown[:2])}); "
        "set columns.time_unit to s, ms, us, ns or iso"
    )


def _sample(column: pa.ChunkedArray) -> pa.ChunkedArray:
    known = column.drop_null()
    places = np.linspace(0, len(known) - 1, min(_SAMPLE, len(known))).astype(np.int64)
    return known.take(pa.array(places))


def _as_doubles(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pc.cast(column, pa.float64(), safe=False)
    raise UserError(f"{where}: the column of times holds {kind} values; numbers, ISO text or times are expected")


def to_milliseconds(column: pa.ChunkedArray, unit: str | None, known: bool = True) -> pa.ChunkedArray:
    """Read a column of times as i64 ms since 1970, rounded down; null where a value is no time in the unit.

    Arrow's own times are read by their type, whatever the unit. Numbers are counted from 1970 and not negative; where
    the unit was detected and is not `known`, a number outside the sizes of that unit is null. ISO text is UTC where it
    names no zone.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _from_arrow(column)
    if unit == "iso" and not pa.types.is_null(kind):
        return _read_iso(readable_text(column) if is_text(kind) else pc.cast(column, pa.string()))
    if is_text(kind):
        text = readable_text(column)
        integers = cast_or_none(text, pa.int64())
        column = parse_numbers(text) if integers is None else integers
    elif pa.types.is_decimal(kind) or kind == pa.uint64() or kind == pa.float16():
        column = pc.cast(column, pa.float64(), safe=False)
    if unit not in _RANGES or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return pa.chunked_array([pa.nulls(len(column), pa.int64())])
    low, high = (0, _FARTHEST * _DIVIDE[unit]) if known else _RANGES[unit]
    if pa.types.is_integer(column.type):
        return _rescaled(_between(pc.cast(column, pa.int64()), int(low), min(int(high), _LARGEST)), unit)
    numbers = _between(pc.cast(column, pa.float64()), float(low), float(high))
    scaled = pc.floor(pc.add(pc.multiply(numbers, _MULTIPLY[unit] / _DIVIDE[unit]), _NUDGE))
    return pc.cast(_between(scaled, 0.0, float(_FARTHEST)), pa.int64())


def _between(column: pa.ChunkedArray, low: float, high: float) -> pa.ChunkedArray:
    ends = pc.min_max(column).as_py()  # passes NaN over, like null
    is_float = pa.types.is_floating(column.type)
    if ends["min"] is None or (low <= ends["min"] and ends["max"] <= high and not is_float):
        return column
    fits = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
    return pc.if_else(fits, column, pa.scalar(None, column.type))


def _rescaled(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Bring i64 ticks of a unit to i64 ms, rounded down; null where that is farther than any time."""
    if unit in ("us", "ns"):
        whole = pc.divide(column, _DIVIDE[unit])  # towards 0
        rest = pc.subtract(column, pc.multiply(whole, _DIVIDE[unit]))
        column = pc.subtract(whole, pc.cast(pc.less(rest, 0), pa.int64()))
    limit = _FARTHEST // _MULTIPLY[unit]
    column = _between(column, -limit, limit)
    return pc.multiply(column, _MULTIPLY[unit]) if unit == "s" else column


def _from_arrow(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_date32(kind):
        days = pc.cast(pc.cast(column, pa.int32()), pa.int64())
        return pc.multiply(_between(days, -_FARTHEST // _LENGTHS["d"], _FARTHEST // _LENGTHS["d"]), _LENGTHS["d"])
    return _rescaled(pc.cast(column, pa.int64()), "ms" if pa.types.is_date64(kind) else kind.unit)


def _read_iso(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read ISO text by Arrow's casts, and value by value only those slices that these refuse."""
    slices = [chunk.slice(start, _SLICE) for chunk in text.chunks for start in range(0, len(chunk), _SLICE)]
    return pa.chunked_array([_read_iso_slice(part) for part in slices], pa.int64())


def _read_iso_slice(text: pa.Array) -> pa.Array:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        with contextlib.suppress(pa.ArrowInvalid):  # each takes text with or without a zone, of so many digits
            return _from_arrow(pa.chunked_array([pc.cast(text, kind)])).combine_chunks()
    distinct = text.dictionary_encode()
    values = pa.array([_iso_moment(value) for value in distinct.dictionary.to_pylist()], pa.int64())
    return values.take(distinct.indices)


def _iso_moment(text: str) -> int | None:
    try:
        return milliseconds(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError):
        return None
