"""What every input format shares: its place, its columns, and the pieces it is read in."""

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pydantic import field_validator

from raysys.component import FrozenConfig
from raysys.data.schema import LABEL_PREFIX
from raysys.errors import UserError, nearest


class Columns(FrozenConfig):
    """Which column of the log holds what. Formats with fixed columns need none of it."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = None
    """Seconds, milliseconds or microseconds since 1970, or ISO text; the unit is told from the size of the number."""
    event: str | None = None
    """A column that names the event of a row; without it every row is the source's `event`."""
    labels: dict[str, str] = {}
    """Label name to column."""

    def wanted(self) -> dict[str, str]:
        """Return the configured columns by their names in EVENTS."""
        named = {"user_id": self.user_id, "item_id": self.item_id, "timestamp": self.timestamp, "event": self.event}
        labels = {LABEL_PREFIX + name: column for name, column in self.labels.items()}
        return {name: column for name, column in named.items() if column is not None} | labels


class SourceConfig(FrozenConfig):
    """One input of `ingest`."""

    path: str
    """A file, a directory or a glob."""
    event: str = "interaction"
    """What a row of this source is, where no column says so."""


class ItemsConfig(FrozenConfig):
    """A table of items: parquet, or .csv, .tsv, .jsonl (also gzipped)."""

    path: str
    id: str = "item_id"
    """Column with the item id used in the logs."""
    title: str | None = "title"
    """Column with the text that people read."""
    categories: tuple[str, ...] = ()
    """Further columns that are kept in the catalog."""

    @field_validator("categories")
    @classmethod
    def _no_name_of_our_own(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in ("item_id", "popularity"):
                raise ValueError(f"{name!r} is a column that the catalog makes itself; rename the one in your table")
        return value


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task reads: it can be read again after a failure with the same outcome."""

    path: str
    index: int
    """Place in the order of all pieces of the ingestion; also names the files written beside it."""
    group: int = 0
    """Row group of a parquet file, or number of the generated part."""


@dataclass(frozen=True)
class RawEvents:
    """Rows as a format found them, before validation. `table` holds text or numbers; nothing is dropped yet."""

    table: pa.Table  # user_id, item_id, event, timestamp, label.* : any type; row: i64, from 1 within the file
    # A timestamp of Arrow's null type says that the log has no times; a null in any other type is a missing value.
    malformed: pa.Table  # row i64, record string: lines that are not rows at all


MALFORMED = pa.schema([pa.field("row", pa.int64()), pa.field("record", pa.string())])


class EventFormat(ABC):
    """An input format: lists its pieces and reads one piece at a time, never a whole log."""

    Config: ClassVar[type[SourceConfig]]

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that the rows carry."""
        return ()

    def pieces(self) -> list[Piece]:
        """List the pieces of the source in a fixed order (index counts from 0).

        Raises:
            UserError: nothing is at the path.
        """
        return [Piece(path, index) for index, path in enumerate(find_files(self.config.path))]

    def estimate_rows(self) -> int | None:
        """Estimate the rows of the source from the length of its first lines; None where that cannot be told."""
        total = 0
        for path in {piece.path for piece in self.pieces()}:
            with open(path, "rb") as file:
                head = file.read(1 << 16)
            if head[:2] == b"\x1f\x8b" or not head:  # gzip hides how much there is
                return None
            total += round(os.path.getsize(path) / (len(head) / max(head.count(b"\n"), 1)))
        return total

    @abstractmethod
    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield the rows of a piece in their order."""

    def items(self) -> pa.Table | None:
        """Return the item table that comes with the log (item_id, title, ...), if there is one."""
        return None


def check_columns(path: str, wanted: Mapping[str, str], found: Sequence[str]) -> None:
    """Check that every configured column is in a file, once.

    Raises:
        UserError: one is missing or stands there twice.
    """
    for name, column in wanted.items():
        place = f"columns.{name.replace(LABEL_PREFIX, 'labels.', 1)}"
        if column not in found:
            raise UserError(
                f"{path}: {place}: there is no column {column!r}{nearest(column, found)} "
                f"(the file has: {', '.join(found)})"
            )
        if list(found).count(column) > 1:
            raise UserError(f"{path}: {place}: the file has more than one column {column!r}; rename one of them")


def find_files(path: str) -> list[str]:
    """Return the files a path, directory or glob stands for, sorted; hidden files and markers are left out.

    Paths are absolute, because tasks run in other working directories than the one the path was written for.
    """
    if "://" in path:
        raise UserError(f"path: {path}: remote paths are not read yet; copy the files to a local or mounted folder")
    found = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
    if len(found) == 1 and os.path.isdir(found[0]):
        found = sorted(glob.glob(os.path.join(glob.escape(found[0]), "**", "*"), recursive=True))
    files = [name for name in found if os.path.isfile(name) and not Path(name).name.startswith((".", "_"))]
    if not files:
        raise UserError(f"path: {path}: no such file or directory, or nothing in it; check the path (RAYSYS_DATA?)")
    return [os.path.abspath(name) for name in files]
