"""CSV and its relatives: any delimiter, with or without a header, plain or gzipped."""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
from pyarrow import csv

from raysys.data.formats.source import MALFORMED, Columns, EventFormat, Piece, RawEvents, SourceConfig
from raysys.data.schema import LABEL_PREFIX
from raysys.errors import UserError, nearest

_BLOCK_BYTES = 16 << 20


class Delimited(EventFormat):
    """Text rows cut by a delimiter. Values stay text here; validation turns them into ids, times and numbers."""

    class Config(SourceConfig):
        """A delimited log."""

        format: Literal["delimited"] = "delimited"
        columns: Columns = Columns()
        delimiter: str = ","
        header: tuple[str, ...] = ()
        """Column names, for files without a header line."""
        encoding: str = "utf8"

    config: Config

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self.config.columns.labels)

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield blocks of about 16 MiB. Lines with a wrong number of fields come out as malformed."""
        first = 1 if self.config.header else 2  # a header line is line 1 of the file
        for table, bad in read_text(piece.path, self.config.delimiter, self.config.header, self.config.encoding):
            lines = first + table.num_rows + bad.num_rows
            yield RawEvents(rename(table, self.config, piece.path, row_numbers(first, lines, bad)), bad)
            first = lines


def read_text(
    path: str, delimiter: str, header: tuple[str, ...] = (), encoding: str = "utf8"
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield (rows with all columns as text, malformed lines) block by block.

    Raises:
        UserError: the file is empty or cannot be decoded.
    """
    bad: list[tuple[int, str]] = []

    def keep(line: csv.InvalidRow) -> str:
        bad.append((line.number or 0, line.text))
        return "skip"

    names = list(header) or _header(path, delimiter, encoding)
    options = {
        "read_options": csv.ReadOptions(
            column_names=names,
            skip_rows=0 if header else 1,
            block_size=_BLOCK_BYTES,
            encoding=encoding,
            use_threads=False,
        ),
        "parse_options": csv.ParseOptions(
            delimiter=delimiter, quote_char='"' if delimiter == "," else False, invalid_row_handler=keep
        ),
        "convert_options": csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True),
    }
    try:
        with csv.open_csv(path, **options) as reader:
            for batch in reader:
                lines, bad = bad, []
                yield pa.Table.from_batches([batch]), malformed(lines)
        if bad:
            yield pa.schema([(name, pa.string()) for name in names]).empty_table(), malformed(bad)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: cannot be read as {delimiter!r}-delimited {encoding} text: {error}") from None


def malformed(lines: list[tuple[int, str]]) -> pa.Table:
    """Return (row, text) pairs as a table of malformed lines."""
    rows, records = [number for number, _ in lines], [text for _, text in lines]
    return pa.table({"row": pa.array(rows, pa.int64()), "record": pa.array(records, pa.string())}, schema=MALFORMED)


def row_numbers(first: int, end: int, bad: pa.Table) -> pa.Array:
    """Return the line numbers of the well-formed rows between `first` and `end`, leaving out malformed ones."""
    import numpy as np

    numbers = np.arange(first, end, dtype=np.int64)
    return pa.array(np.setdiff1d(numbers, bad["row"].to_numpy(), assume_unique=True)[: end - first - bad.num_rows])


def rename(table: pa.Table, source: "Delimited.Config | SourceConfig", path: str, rows: pa.Array) -> pa.Table:
    """Pick and rename the configured columns of a log to the names of EVENTS.

    Raises:
        UserError: a configured column is not in the file.
    """
    columns: Columns = source.columns  # type: ignore[union-attr]
    wanted = {"user_id": columns.user_id, "item_id": columns.item_id}
    optional = {"timestamp": columns.timestamp, "event": columns.event}
    wanted |= {name: column for name, column in optional.items() if column is not None}
    wanted |= {LABEL_PREFIX + name: column for name, column in columns.labels.items()}
    for name, column in wanted.items():
        if column not in table.column_names:
            allowed = ", ".join(table.column_names)
            raise UserError(
                f"{path}: columns.{name}: there is no column {column!r}{nearest(column, table.column_names)} "
                f"(the file has: {allowed})"
            )
    arrays = {name: table[column] for name, column in wanted.items()}
    arrays.setdefault("timestamp", pa.nulls(table.num_rows, pa.int64()))
    arrays.setdefault("event", pa.repeat(pa.scalar(source.event), table.num_rows))
    return pa.table({**arrays, "row": rows})


def _header(path: str, delimiter: str, encoding: str) -> list[str]:
    with pa.input_stream(path, compression="detect") as stream:
        line = stream.read(1 << 16).split(b"\n", 1)[0].decode(encoding, errors="replace").strip("\r\ufeff")
    if not line:
        raise UserError(f"{path}: the file is empty; a log needs a header line and rows (or set `header:`)")
    return [name.strip().strip('"') for name in line.split(delimiter)]
