"""CSV and its relatives: any delimiter, with or without a header, plain or packed."""

import codecs
import re
from collections.abc import Collection, Iterator
from csv import QUOTE_MINIMAL, QUOTE_NONE
from csv import Error as CsvError
from csv import reader as read_csv
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pydantic import Field, field_validator

from raysys.data.formats.lines import Lines, read_lines
from raysys.data.formats.shaping import check_columns, malformed, shape
from raysys.data.formats.source import MappedFormat, MappedSource, Piece, RawEvents, cut_files
from raysys.data.places import open_text
from raysys.errors import UserError

_QUOTED: Final = ",;"  # with other delimiters a quotation mark is a character like any other
_HEAD_BYTES: Final = 1 << 20


class Delimited(MappedFormat):
    """Text rows cut by a delimiter. Values stay text here; validation turns them into ids, times and numbers."""

    class Config(MappedSource):
        """A delimited log. A row is a line: no value holds a line end, quoted or not."""

        format: Literal["delimited"] = "delimited"
        delimiter: str = Field(",", min_length=1, max_length=1)
        """One character; a tab is "\\t" in double quotes."""
        header: tuple[str, ...] = ()
        """Column names, for files without a header line."""
        encoding: str = "utf8"

        @field_validator("delimiter")
        @classmethod
        def _one_byte(cls, value: str) -> str:
            if not value.isascii() or value in '\r\n"':
                raise ValueError(
                    f"{value!r} cannot be a delimiter; use an ASCII character, no quotation mark or line end"
                )
            return value

        @field_validator("encoding")
        @classmethod
        def _known_encoding(cls, value: str) -> str:
            try:
                ends_lines = "\n".encode(value) == b"\n"
            except (LookupError, UnicodeError):
                raise ValueError(f"unknown encoding {value!r}; utf8, latin-1 and cp1252 are common") from None
            if not ends_lines:
                raise ValueError(f"{value!r} is no encoding with lines of bytes; convert the files to utf8")
            return value

    config: Config

    def pieces(self) -> list[Piece]:
        """One piece per file, several for large plain files."""
        return cut_files(self.config.path)

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield blocks of about 16 MiB. Lines with a wrong number of fields come out as malformed."""
        config = self.config
        wanted = config.columns.wanted()
        names = column_names(piece.path, config.delimiter, config.header, config.encoding)
        check_columns(piece.path, wanted, names)
        for lines in read_lines(piece, has_header=not config.header):
            table, rows, bad = parse(lines, piece.path, names, set(wanted.values()), config.delimiter, config.encoding)
            yield shape(table, config.columns, config.event, rows, bad)


def read_text(
    path: str, delimiter: str, header: tuple[str, ...] = (), encoding: str = "utf8"
) -> Iterator[tuple[pa.Table, pa.Array, pa.Table]]:
    """Yield (rows with all columns as text, their line numbers, malformed lines) block by block.

    A line without any value is no row; it only counts as a line.

    Raises:
        UserError: the file is empty or cannot be read.
    """
    names = column_names(path, delimiter, header, encoding)
    for lines in read_lines(Piece(path, 0), has_header=not header):
        yield parse(lines, path, names, names, delimiter, encoding)


def column_names(path: str, delimiter: str, header: tuple[str, ...], encoding: str) -> list[str]:
    """Return the names of a file's columns: the configured ones, or those of its first line.

    Raises:
        UserError: the file is empty or cannot be read.
    """
    try:
        with open_text(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not head.strip():
        raise UserError(f"{path}: the file is empty; a log needs a header line and rows (or set `header:`)")
    if header:
        return list(header)
    line = head.split(b"\n", 1)[0].decode(encoding, errors="replace").lstrip("\ufeff").strip("\r")
    quoting: Literal[0, 3] = QUOTE_MINIMAL if delimiter in _QUOTED else QUOTE_NONE
    try:
        return [name.strip() for name in next(read_csv([line], delimiter=delimiter, quoting=quoting), [""])]
    except CsvError as error:
        raise UserError(f"{path}: its first line holds no column names: {error}") from None


def parse(
    lines: Lines, path: str, names: list[str], only: Collection[str], delimiter: str, encoding: str
) -> tuple[pa.Table, pa.Array, pa.Table]:
    """Return (rows with the columns `only` as text, where they stand in the file, malformed lines).

    Malformed is a line with another number of fields, a quotation mark that is not closed, or bytes that are no text.
    What a line is does not depend on its neighbours.
    """
    good = _decodable(lines, encoding)
    found = _parse(lines.keep(good), names, only, delimiter, encoding)
    if found is None:
        good &= _closed(lines, delimiter)
        found = _parse(lines.keep(good), names, only, delimiter, encoding)
    if found is None:
        raise UserError(f"{path}: cannot be read as {delimiter!r}-delimited {encoding} text")
    table, broken = found
    places = np.flatnonzero(good)
    is_row = good.copy()
    is_row[places[broken]] = False
    bad = np.flatnonzero(~is_row)
    bad = bad[[not _is_empty(lines.line(index), delimiter) for index in bad]] if len(bad) else bad
    rows = np.flatnonzero(is_row)
    filled = np.ones(len(rows), bool)
    for index in _without_value(table):
        filled[index] = not _is_empty(lines.line(rows[index]), delimiter)
    if not filled.all():
        table = table.filter(pa.array(filled))
    records = [lines.text(index, encoding) for index in bad]
    return table, pa.array(lines.rows[rows[filled]]), malformed(lines.rows[bad], records)


def _parse(
    lines: Lines, names: list[str], only: Collection[str], delimiter: str, encoding: str
) -> tuple[pa.Table, np.ndarray] | None:
    """Return (table, lines with a wrong number of fields), or None where the parser does not see the same lines."""
    if not len(lines):
        return pa.schema([(name, pa.string()) for name in only]).empty_table(), np.zeros(0, np.int64)
    broken: list[int] = []

    def note(row: csv.InvalidRow) -> str:
        broken.append(row.number - 1)
        return "skip"

    is_quoted = delimiter in _QUOTED
    data = _utf8(lines.data, encoding)
    read = csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False)
    cut = csv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if is_quoted else False,
        ignore_empty_lines=False,
        invalid_row_handler=note,
    )
    columns = list(dict.fromkeys(name for name in names if name in only))
    types = dict.fromkeys(names, pa.string())
    convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, include_columns=columns)
    try:
        table = csv.read_csv(pa.BufferReader(data), read, cut, convert)
    except pa.ArrowInvalid:
        return None
    same = table.num_rows + len(broken) == len(lines)
    if not same or (is_quoted and not _pattern(delimiter).fullmatch(lines.line(len(lines) - 1).decode(encoding))):
        return None
    return table, np.array(broken, np.int64)


def _utf8(data: bytes, encoding: str) -> bytes:
    """Return decodable text as UTF-8 in which only newlines end lines: the parser would also end one at a lone CR."""
    text = data if codecs.lookup(encoding).name == "utf-8" or data.isascii() else data.decode(encoding).encode()
    return re.sub(rb"\r(?!\n)", b" ", text) if b"\r" in text else text


def _decodable(lines: Lines, encoding: str) -> np.ndarray:
    """Return which lines are text in the encoding [N] bool."""
    good = np.ones(len(lines), bool)
    if lines.data.isascii():
        return good
    try:
        lines.data.decode(encoding)
    except UnicodeDecodeError:
        high = np.frombuffer(lines.data, np.uint8) >= 0x80
        for index in np.flatnonzero(np.maximum.reduceat(high, lines.starts[:-1])):
            try:
                lines.line(index).decode(encoding)
            except UnicodeDecodeError:
                good[index] = False
    return good


def _closed(lines: Lines, delimiter: str) -> np.ndarray:
    """Return where no quotation mark is left open [N] bool."""
    offsets = pa.py_buffer(lines.starts.astype(np.int32))
    texts = pa.BinaryArray.from_buffers(pa.binary(), len(lines), [None, offsets, pa.py_buffer(lines.data)])
    closed: np.ndarray = pc.match_substring_regex(texts, f"^{_closed_fields(delimiter)}$").to_numpy(
        zero_copy_only=False
    )
    return closed


def _pattern(delimiter: str) -> re.Pattern[str]:
    return re.compile(_closed_fields(delimiter))


def _closed_fields(delimiter: str) -> str:
    d = delimiter
    field = f'(?:"(?:[^"]|"")*"(?:[^"{d}][^{d}]*)?|[^"{d}][^{d}]*|)'
    return f"(?:{field}{d})*{field}"


def _without_value(table: pa.Table) -> np.ndarray:
    """Return the rows in which every column is null."""
    empty = np.ones(table.num_rows, bool)
    for column in table.columns:
        if column.null_count == 0:
            return np.zeros(0, np.int64)
        empty &= pc.is_null(column).to_numpy()
    return np.flatnonzero(empty)


def _is_empty(line: bytes, delimiter: str) -> bool:
    return not line.strip(delimiter.encode() + b' "\r\n')
