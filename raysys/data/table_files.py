"""The rows of one table file, whatever its kind: the wanted columns as the file holds them, in blocks."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.formats.delimited import column_names, parse
from raysys.data.formats.lines import read_lines
from raysys.data.formats.source import Piece
from raysys.data.json_objects import read_objects
from raysys.data.places import open_random
from raysys.errors import UserError, nearest

_BLOCK_ROWS = 1 << 14  # of a parquet file at once: texts and vectors make rows wide
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson", ".json")

Wanted = Iterable[tuple[str, str]]
"""Pairs of (key in the config, column of the file)."""
Block = tuple[pa.Table, int]
"""Rows, and how many lines beside them are malformed."""


def num_groups(path: str, section: str) -> int:
    """Return in how many parts a file is read, at least 1: the row groups of parquet. `section` begins messages.

    Raises:
        UserError: the kind of the file is not known, or it is not what its name says.
    """
    kind = _kind(path)
    if kind == ".parquet":
        return max(1, _parquet(path, section).num_row_groups)
    if kind not in _DELIMITERS and kind not in _JSON:
        raise UserError(f"{section}.path: {path}: a table ends in .parquet, .csv, .tsv or .jsonl (or .gz, .zst behind)")
    return 1


def read_rows(path: str, group: int, wanted: Wanted, section: str) -> Iterator[Block]:
    """Yield the wanted columns of a file, or of one row group of it, block by block, at least once.

    Raises:
        UserError: the file cannot be read, or a column is missing or stands there twice.
    """
    pairs, kind = list(wanted), _kind(path)
    columns = list(dict.fromkeys(column for _, column in pairs))
    if kind == ".parquet":
        blocks = _read_parquet(path, group, pairs, columns, section)
    elif kind in _DELIMITERS:
        blocks = _read_delimited(path, pairs, columns, section)
    else:
        blocks = read_objects(path)
    seen: dict[str, None] = {}
    is_empty = True
    for table, malformed in blocks:
        seen |= dict.fromkeys(table.column_names)
        is_empty = False
        yield _select(table, columns), malformed
    if is_empty:
        yield _select(pa.table({}), columns), 0
    elif kind in _JSON and seen:  # not every object has every field
        _check(path, pairs, list(seen), section)


def _read_parquet(path: str, group: int, pairs: Wanted, columns: list[str], section: str) -> Iterator[Block]:
    file = _parquet(path, section)
    _check(path, pairs, file.schema_arrow.names, section)
    groups = [group] if file.num_row_groups else []
    try:
        for batch in file.iter_batches(_BLOCK_ROWS, groups, columns, use_threads=False):
            yield pa.Table.from_batches([batch]), 0
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{section}.path: {path}: cannot be read: {error}") from None


def _read_delimited(path: str, pairs: Wanted, columns: list[str], section: str) -> Iterator[Block]:
    delimiter = _DELIMITERS[_kind(path)]
    names = column_names(path, delimiter, (), "utf8")
    _check(path, pairs, names, section)
    for lines in read_lines(Piece(path, 0), has_header=True):
        table, _, bad = parse(lines, path, names, columns, delimiter, "utf8")
        yield table, bad.num_rows


def _kind(path: str) -> str:
    """Return the suffix of a path without the options of a URI and the suffix of a compression."""
    bare = path.partition("?")[0] if "://" in path else path
    return PurePosixPath(bare.removesuffix(".gz").removesuffix(".zst")).suffix


def _parquet(path: str, section: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(open_random(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{section}.path: {path}: not a parquet file: {error}") from None


def _select(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Return the columns; one that no object of the block has is null."""
    found = set(table.column_names)
    nothing = pa.nulls(table.num_rows)
    return pa.table({name: table[name] if name in found else nothing for name in columns})


def _check(path: str, pairs: Wanted, found: Sequence[str], section: str) -> None:
    for place, column in pairs:
        where = f"{section}.{place}: {path}"
        if column not in found:
            raise UserError(f"{where} has no column {column!r}{nearest(column, found)} (it has: {', '.join(found)})")
        if list(found).count(column) > 1:
            raise UserError(f"{where} has more than one column {column!r}; rename one of them")
