"""Parquet logs: one piece per row group, only the configured columns are read."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.formats.delimited import rename
from raysys.data.formats.source import (
    MALFORMED,
    Columns,
    EventFormat,
    Piece,
    RawEvents,
    SourceConfig,
    check_columns,
    find_files,
)
from raysys.errors import UserError


class Parquet(EventFormat):
    """A parquet file, or a directory of them."""

    class Config(SourceConfig):
        """A parquet log."""

        format: Literal["parquet"] = "parquet"
        columns: Columns = Columns()

    config: Config

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self.config.columns.labels)

    def pieces(self) -> list[Piece]:
        """One piece for every row group."""
        groups = [(path, group) for path in find_files(self.config.path) for group in range(_open(path).num_row_groups)]
        return [Piece(path, index, group) for index, (path, group) in enumerate(groups)]

    def estimate_rows(self) -> int | None:
        """Count the rows from the files' footers."""
        return sum(_open(path).metadata.num_rows for path in find_files(self.config.path))

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield the one table of a row group."""
        file = _open(piece.path)
        wanted = self.config.columns.wanted()
        check_columns(piece.path, wanted, file.schema_arrow.names)
        first = 1 + sum(file.metadata.row_group(group).num_rows for group in range(piece.group))
        table = file.read_row_group(piece.group, columns=sorted(set(wanted.values())))
        rows = pa.array(np.arange(first, first + table.num_rows, dtype=np.int64))
        yield RawEvents(rename(table, self.config, piece.path, rows), MALFORMED.empty_table())


def _open(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a parquet file: {error}") from None
