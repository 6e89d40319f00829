"""JSON lines as tables of whatever fields their objects have, block by block."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json

from raysys.data.formats.lines import read_lines
from raysys.data.formats.source import Piece
from raysys.errors import UserError


def read_objects(path: str) -> Iterator[tuple[pa.Table, int]]:
    """Yield (one row per object, number of lines that are no objects) for about 16 MiB of lines at a time.

    Values of different types in one field of a block become text, or lists of texts where one is a list. A field that
    no object of a block has is no column of its table.

    Raises:
        UserError: the file cannot be read, or no line of it is an object.
    """
    texts: dict[str, pa.DataType] = {}
    num_rows = num_malformed = 0
    for lines in read_lines(Piece(path, 0)):
        try:
            table, malformed = _parsed(lines.data, texts), 0
        except pa.ArrowInvalid:
            table, malformed = _one_by_one(lines.data)
        num_rows, num_malformed = num_rows + table.num_rows, num_malformed + malformed
        yield table, malformed
    if num_malformed and not num_rows:
        raise UserError(f"{path}: cannot be read as JSON lines: no line of it is a JSON object")


def _parsed(block: bytes, texts: dict[str, pa.DataType]) -> pa.Table:
    """Parse a block of clean lines; `texts` collects the fields whose texts Arrow would take for times."""
    table = pyarrow.json.read_json(
        pa.BufferReader(block),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        pyarrow.json.ParseOptions(explicit_schema=pa.schema(texts.items())),
    )
    dates = {field.name: kind for field in table.schema if (kind := _without_times(field.type)) != field.type}
    if not dates:
        return table
    texts.update(dates)
    return _parsed(block, texts)


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _one_by_one(block: bytes) -> tuple[pa.Table, int]:
    objects: list[dict[str, Any]] = []
    malformed = 0
    for line in filter(bytes.strip, block.split(b"\n")):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            objects.append(value)
        else:
            malformed += 1
    names = dict.fromkeys(name for row in objects for name in row)
    return pa.table({name: _column([row.get(name) for row in objects]) for name in names}), malformed


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
