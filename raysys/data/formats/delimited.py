"""CSV and its relatives: any delimiter, with or without a header, plain or gzipped."""

import codecs
from collections.abc import Callable, Iterator
from csv import QUOTE_MINIMAL, QUOTE_NONE
from csv import reader as read_csv
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pydantic import Field, field_validator

from raysys.data.formats.source import (
    MALFORMED,
    Columns,
    EventFormat,
    Piece,
    RawEvents,
    SourceConfig,
    check_columns,
)
from raysys.errors import UserError

_BLOCK_BYTES = 16 << 20
_QUOTED = ",;"  # with other delimiters a quotation mark is a character like any other


class Delimited(EventFormat):
    """Text rows cut by a delimiter. Values stay text here; validation turns them into ids, times and numbers."""

    class Config(SourceConfig):
        """A delimited log."""

        format: Literal["delimited"] = "delimited"
        columns: Columns = Columns()
        delimiter: str = Field(",", min_length=1, max_length=1)
        """One character; a tab is "\\t" in double quotes."""
        header: tuple[str, ...] = ()
        """Column names, for files without a header line."""
        encoding: str = "utf8"

        @field_validator("encoding")
        @classmethod
        def _known_encoding(cls, value: str) -> str:
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError(f"unknown encoding {value!r}; utf8, latin-1 and cp1252 are common") from None
            return value

    config: Config

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self.config.columns.labels)

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield blocks of about 16 MiB. Lines with a wrong number of fields come out as malformed."""
        config = self.config
        for table, numbers, bad in read_text(piece.path, config.delimiter, config.header, config.encoding):
            yield RawEvents(rename(table, config, piece.path, numbers), bad)


def read_text(
    path: str, delimiter: str, header: tuple[str, ...] = (), encoding: str = "utf8"
) -> Iterator[tuple[pa.Table, pa.Array, pa.Table]]:
    """Yield (rows with all columns as text, their line numbers, malformed lines) block by block.

    A line without any value is no row; it only counts as a line.

    Raises:
        UserError: the file is empty or cannot be decoded.
    """
    bad: list[tuple[int, str]] = []

    def keep(line: csv.InvalidRow) -> str:
        bad.append((line.number or 0, line.text))
        return "skip"

    try:
        head = _head(path)
        names = list(header) or _names(head, delimiter, encoding)
        if not header and b"\n" not in head:
            return  # a header line and nothing else
        first, skipped = (1 if header else 2), np.zeros(0, np.int64)
        with csv.open_csv(path, **_options(names, delimiter, encoding, bool(header), keep)) as reader:
            for batch in reader:
                lines, bad = bad, []  # the reader looks ahead: some of these lines lie in later blocks
                skipped = np.append(skipped[skipped >= first], np.array([number for number, _ in lines], np.int64))
                numbers = _line_numbers(first, batch.num_rows, skipped)
                first = int(numbers[-1]) + 1 if len(numbers) else first
                filled = _has_value(batch)
                yield pa.Table.from_batches([batch]).filter(filled), pa.array(numbers).filter(filled), malformed(lines)
        if bad:
            empty = pa.schema([(name, pa.string()) for name in names]).empty_table()
            yield empty, pa.array([], pa.int64()), malformed(bad)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as {delimiter!r}-delimited {encoding} text: {error}") from None


def _options(
    names: list[str], delimiter: str, encoding: str, has_header: bool, keep: Callable[[csv.InvalidRow], str]
) -> dict[str, Any]:
    return {
        "read_options": csv.ReadOptions(
            column_names=names,
            skip_rows=0 if has_header else 1,
            block_size=_BLOCK_BYTES,
            encoding=encoding,
            use_threads=False,
        ),
        "parse_options": csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if delimiter in _QUOTED else False,
            ignore_empty_lines=False,
            invalid_row_handler=keep,
        ),
        "convert_options": csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True),
    }


def malformed(lines: list[tuple[int, str]]) -> pa.Table:
    """Return (row, text) pairs as a table of malformed lines."""
    rows, records = [number for number, _ in lines], [text for _, text in lines]
    return pa.table({"row": pa.array(rows, pa.int64()), "record": pa.array(records, pa.string())}, schema=MALFORMED)


def rename(table: pa.Table, source: "Delimited.Config | SourceConfig", path: str, rows: pa.Array) -> pa.Table:
    """Pick and rename the configured columns of a log to the names of EVENTS.

    Raises:
        UserError: a configured column is not in the file.
    """
    columns: Columns = source.columns  # type: ignore[union-attr]
    check_columns(path, columns.wanted(), table.column_names)
    arrays = {name: _typed(table[column]) for name, column in columns.wanted().items()}
    arrays.setdefault("timestamp", pa.nulls(table.num_rows))
    arrays.setdefault("event", pa.repeat(pa.scalar(source.event), table.num_rows))
    return pa.table({**arrays, "row": rows})


def _typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without a single value as text: the null type means that the log has no such column."""
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _head(path: str) -> bytes:
    with pa.input_stream(path, compression="detect") as stream:
        head = stream.read(1 << 16)
    if not head.strip():
        raise UserError(f"{path}: the file is empty; a log needs a header line and rows (or set `header:`)")
    return head


def _names(head: bytes, delimiter: str, encoding: str) -> list[str]:
    line = head.decode(encoding, errors="replace").lstrip("\ufeff").split("\n", 1)[0].strip("\r")
    quoting: Literal[0, 3] = QUOTE_MINIMAL if delimiter in _QUOTED else QUOTE_NONE
    return [name.strip() for name in next(read_csv([line], delimiter=delimiter, quoting=quoting), [""])]


def _has_value(batch: pa.RecordBatch) -> pa.Array:
    filled = pa.array(np.zeros(batch.num_rows, bool))
    for column in batch.columns:
        filled = pc.or_(filled, pc.is_valid(column))
    return filled


def _line_numbers(first: int, count: int, skipped: np.ndarray) -> np.ndarray:
    """Return the `count` line numbers from `first` on that were not skipped as malformed."""
    candidates = np.arange(first, first + count + len(skipped), dtype=np.int64)
    return np.setdiff1d(candidates, skipped, assume_unique=True)[:count]
