"""Parquet logs: one piece per row group, only the configured columns are read."""

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.formats.shaping import check_columns, shape
from raysys.data.formats.source import MappedFormat, MappedSource, Piece, RawEvents
from raysys.data.places import list_files, open_random
from raysys.errors import UserError

_BATCH_ROWS: Final = 1 << 20


class Parquet(MappedFormat):
    """A parquet file, or a directory of them."""

    class Config(MappedSource):
        """A parquet log."""

        format: Literal["parquet"] = "parquet"

    config: Config

    def pieces(self) -> list[Piece]:
        """One piece for every row group."""
        files = list_files(self.config.path)
        groups = [(file.path, group) for file in files for group in range(_open(file.path).num_row_groups)]
        return [Piece(path, index, group) for index, (path, group) in enumerate(groups)]

    def estimate_rows(self) -> int | None:
        """Count the rows from the files' footers."""
        return sum(_open(file.path).metadata.num_rows for file in list_files(self.config.path))

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield the rows of a row group, at most about a million at a time."""
        file = _open(piece.path)
        columns = self.config.columns
        check_columns(piece.path, columns.wanted(), file.schema_arrow.names)
        first = 1 + sum(file.metadata.row_group(group).num_rows for group in range(piece.group))
        names = sorted(set(columns.wanted().values()))
        try:
            for batch in file.iter_batches(_BATCH_ROWS, [piece.group], names, use_threads=False):
                rows = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
                first += batch.num_rows
                yield shape(pa.Table.from_batches([batch]), columns, self.config.event, rows)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{piece.path}: row group {piece.group} cannot be read: {error}") from None


def _open(path: str) -> pq.ParquetFile:
    file = open_random(path)
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file: {error}") from None
