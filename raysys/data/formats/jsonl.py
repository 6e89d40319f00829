"""JSON lines: an object per line, plain or packed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.json

from raysys.data.formats.lines import Lines, read_lines
from raysys.data.formats.shaping import check_columns, malformed, shape
from raysys.data.formats.source import MALFORMED, MappedFormat, MappedSource, Piece, RawEvents, cut_files
from raysys.data.schema import LABEL_PREFIX, NUMBER_PREFIX

_SAMPLED_LINES: Final = 100
_SMALLEST_PART: Final = 4096  # lines that are parsed one by one where the fast parser refuses them
_PARTS: Final = 8
_LARGEST_INTEGER: Final = 2**63


class JsonLines(MappedFormat):
    """An object per line; fields of the objects are columns, and fields that hold lists unroll."""

    class Config(MappedSource):
        """A log of JSON lines."""

        format: Literal["jsonl"] = "jsonl"

    config: Config

    def pieces(self) -> list[Piece]:
        """One piece per file, several for large plain files."""
        return cut_files(self.config.path)

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield blocks of at most 16 MiB; a line that is not one JSON object is malformed.

        A field that is missing in a line is unknown there. Where a field holds values of several types they become
        text.
        """
        columns = self.config.columns
        for place, lines in enumerate(read_lines(piece)):
            lines = lines.keep(_is_filled(lines))
            if not len(lines):
                continue
            sample = [
                value for value in map(parse_object, map(lines.line, range(min(len(lines), _SAMPLED_LINES)))) if value
            ]
            if place == 0 and sample:
                self._check(piece.path, sample)
            kinds = _kinds(columns.wanted(), sample)
            for table, rows, bad in _tables(lines, kinds):
                yield shape(table, columns, self.config.event, rows, bad)

    def _check(self, path: str, sample: Sequence[dict[str, Any]]) -> None:
        """Refuse a mapping of which the first lines hold no user, item, time or event: labels may be rare."""
        wanted = {name: column for name, column in self.config.columns.wanted().items() if "." not in name}
        wanted.pop("request_id", None)
        check_columns(path, wanted, list(dict.fromkeys(name for value in sample for name in value)))


def _is_filled(lines: Lines) -> np.ndarray:
    """Return which lines hold more than white space [N] bool."""
    filled: np.ndarray = np.logical_or.reduceat(~lines.is_space, lines.starts[:-1])
    return filled


def _tables(lines: Lines, kinds: Mapping[str, pa.DataType | None]) -> Iterator[tuple[pa.Table, pa.Array, pa.Table]]:
    """Yield (columns of the objects, where they stand in the file, malformed lines), in the order of the lines.

    What the fast parser refuses is cut into parts, so that a bad line slows only its neighbourhood.
    """
    table = _parse_all(lines, kinds)
    if table is not None:
        yield table, pa.array(lines.rows), MALFORMED.empty_table()
    elif len(lines) > _SMALLEST_PART and None not in kinds.values():
        size = -(-len(lines) // _PARTS)
        for begin in range(0, len(lines), size):
            yield from _tables(lines.part(begin, min(begin + size, len(lines))), kinds)
    else:
        yield _parse_each(lines, kinds)


def _parse_all(lines: Lines, kinds: Mapping[str, pa.DataType | None]) -> pa.Table | None:
    """Parse lines at once; None where one of them is refused or is not exactly one object of the given types."""
    if None in kinds.values() or not _look_like_objects(lines):
        return None
    read = pyarrow.json.ReadOptions(block_size=len(lines.data) + 1, use_threads=False)
    parse = pyarrow.json.ParseOptions(explicit_schema=pa.schema(kinds.items()), unexpected_field_behavior="ignore")
    try:
        table = pyarrow.json.read_json(pa.BufferReader(lines.data), read, parse)
    except pa.ArrowInvalid:
        return None
    return table if table.num_rows == len(lines) else None


def _look_like_objects(lines: Lines) -> bool:
    """Tell whether the text is UTF-8 and every line begins and ends like an object: then no object goes over lines."""
    try:
        lines.data.isascii() or lines.data.decode()
    except UnicodeDecodeError:
        return False
    text = np.frombuffer(lines.data, np.uint8)
    last = lines.starts[1:] - 1
    for line_end in b"\n\r":
        last = last - (text[last] == line_end)
    return bool((text[lines.starts[:-1]] == ord("{")).all() and (text[last] == ord("}")).all())


def _parse_each(lines: Lines, kinds: Mapping[str, pa.DataType | None]) -> tuple[pa.Table, pa.Array, pa.Table]:
    objects = [parse_object(lines.line(index)) for index in range(len(lines))]
    is_row = np.array([value is not None for value in objects])
    rows = [value for value in objects if value is not None]
    table = pa.table({name: _column([row.get(name) for row in rows], kind) for name, kind in kinds.items()})
    bad = np.flatnonzero(~is_row)
    return table, pa.array(lines.rows[is_row]), malformed(lines.rows[bad], [lines.text(index) for index in bad])


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Return the object that a line holds, or None where it holds none."""
    try:
        value = json.loads(line.decode())
        if b"\\u" in line:  # half a surrogate pair is no text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _kinds(wanted: Mapping[str, str], sample: Sequence[Mapping[str, Any]]) -> dict[str, pa.DataType | None]:
    """Return the type of each wanted column, as the sample has it; None where it has several."""
    floats = (LABEL_PREFIX, NUMBER_PREFIX)
    is_float = {
        column: all(n.startswith(floats) for n, c in wanted.items() if c == column) for column in wanted.values()
    }
    return {column: _kind([row.get(column) for row in sample], is_float[column]) for column in is_float}


def _kind(values: Sequence[Any], is_float: bool) -> pa.DataType | None:
    types = {type(value) for value in values if value is not None}
    if not types:
        return pa.string()
    if types == {list}:
        inner = _kind([element for value in values for element in value or ()], is_float)
        return None if inner is None or pa.types.is_list(inner) else pa.list_(inner)
    if types == {int} and not is_float:
        return pa.int64()
    if types in ({int}, {float}, {int, float}):
        return pa.float64() if is_float or types == {float} else None
    return {str: pa.string(), bool: pa.bool_()}.get(types.pop()) if len(types) == 1 else None


def _column(values: Sequence[Any], kind: pa.DataType | None) -> pa.Array:
    """Return values of whatever types as a column: of lists where one is a list, of text where the types differ."""
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) or value is None else [value] for value in values]
        elements = [_flat(element) for value in lists for element in value or ()]
        offsets = np.concatenate([[0], np.cumsum([len(value or ()) for value in lists])]).astype(np.int32)
        is_null = np.array([value is None for value in lists])
        inner = kind.value_type if kind is not None and pa.types.is_list(kind) else kind
        return pa.ListArray.from_arrays(pa.array(offsets), _column(elements, inner), mask=pa.array(is_null))
    types = {type(value) for value in values if value is not None}
    is_float = kind is not None and pa.types.is_floating(kind)
    if not types:
        return pa.nulls(len(values), kind or pa.string())
    if types == {bool}:
        return pa.array(values, pa.bool_())
    if types == {float} or (is_float and types <= {bool, int, float}):
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    if types == {int} and all(abs(value or 0) < _LARGEST_INTEGER for value in values):
        return pa.array(values, pa.int64())
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _flat(element: Any) -> Any:
    return json.dumps(element) if isinstance(element, list) else element


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _text(value: Any) -> str:
    """Write a value as the fast parser's columns would read as text: 12.0 is 12."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_INTEGER:
        return str(int(value))
    return json.dumps(value)
