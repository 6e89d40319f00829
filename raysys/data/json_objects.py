"""JSON lines as tables of whatever fields their objects have, block by block."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from raysys.data.formats.jsonl import parse_object
from raysys.data.formats.lines import Lines, read_lines
from raysys.data.formats.source import Piece
from raysys.errors import UserError


def read_objects(path: str) -> Iterator[tuple[pa.Table, int]]:
    """Yield (one row per object, number of lines that are none or hold no field) for about 16 MiB of lines at a time.

    Values of different types in one field of a block become text, or lists of texts where one is a list. A field that
    no object of a block has is no column of its table.

    Raises:
        UserError: the file cannot be read, or no line of it is an object.
    """
    texts: dict[str, pa.DataType] = {}  # true for the whole file once one block has shown it
    num_rows = num_malformed = 0
    for lines in read_lines(Piece(path, 0)):
        table, malformed = _all_at_once(lines, texts), 0
        if table is None:
            table, malformed = _one_by_one(lines)
        num_rows, num_malformed = num_rows + table.num_rows, num_malformed + malformed
        yield table, malformed
    if num_malformed and not num_rows:
        raise UserError(f"{path}: cannot be read as JSON lines: no line of it is a JSON object")


def _all_at_once(lines: Lines, texts: dict[str, pa.DataType]) -> pa.Table | None:
    """Parse a block of which every line is blank or one object; None where one is not, or types of a field differ.

    `texts` collects the fields whose texts Arrow takes for times.
    """
    first = np.frombuffer(lines.data, np.uint8)[lines.starts[:-1]]
    is_object = first == ord("{")
    # Arrow's parser takes bytes that are no text for text, and crashes where a line is `null`.
    if not _is_utf8(lines.data) or not (is_object | np.isin(first, list(b"\r\n"))).all():
        return None
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines.data) + 1)
    parse = pyarrow.json.ParseOptions(explicit_schema=pa.schema(texts.items()))
    try:
        table = pyarrow.json.read_json(pa.BufferReader(lines.data), read, parse)
        table.validate()  # of lists that begin with null it loses elements
    except pa.ArrowInvalid:
        return None
    if table.num_rows != is_object.sum():  # two values on one line
        return None
    dates = {field.name: kind for field in table.schema if (kind := _without_times(field.type)) != field.type}
    if not dates:
        return table
    texts.update(dates)
    return _all_at_once(lines, texts)


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or data.decode() is not None
    except UnicodeDecodeError:
        return False


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _one_by_one(lines: Lines) -> tuple[pa.Table, int]:
    filled = [line for index in range(len(lines)) if (line := lines.line(index).strip())]
    objects = [value for line in filled if (value := parse_object(line))]
    names = dict.fromkeys(name for row in objects for name in row)
    table = pa.table({name: _column([row.get(name) for row in objects]) for name in names})
    return table, len(filled) - len(objects)


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    if any(isinstance(value, list) for value in values):
        return pa.array([_words(value) for value in values], pa.list_(pa.string()))
    return pa.array([None if value is None else _word(value) for value in values], pa.string())


def _words(value: Any) -> list[str] | None:
    """Return the values of a list of any depth as texts."""
    if isinstance(value, list):
        return [word for inner in value for word in _words(inner) or []]
    return None if value is None else [_word(value)]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
