"""What every input format shares: its place, its columns, and the pieces it is read in."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from raysys.component import FrozenConfig
from raysys.data.places import can_be_cut, is_compressed, list_files, open_text
from raysys.data.schema import CATEGORY_PREFIX, LABEL_PREFIX, NUMBER_PREFIX, REQUEST_ID, Fields
from raysys.data.times import TimeUnit
from raysys.errors import UserError

SPLIT_BYTES: Final = 64 << 20
"""Text files larger than this are read in parts, where parts of them can be read."""

_SAMPLED_FILES: Final = 8
_SAMPLED_BYTES: Final = 1 << 16


class EventColumn(FrozenConfig):
    """A column that names the event of a row in words of its own."""

    column: str = Field(min_length=1)
    map: dict[str, str] = {}
    """Value of the column -> name of the event; rows with another value are rejected. Empty: values are the names."""

    @field_validator("map")
    @classmethod
    def _no_empty_name(cls, value: dict[str, str]) -> dict[str, str]:
        for given, name in value.items():
            if not given.strip() or not name.strip():
                raise ValueError(f"{given!r}: {name!r}: neither the value nor the event's name can be empty")
        return {given.strip(): name.strip() for given, name in value.items()}


class Columns(FrozenConfig):
    """Which column of the log holds what. Formats with fixed columns need none of it.

    A row whose columns hold lists is one event per element; what is no list is the same for each of them.
    """

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = None
    time_unit: TimeUnit = "auto"
    """Unit of numbers since 1970, or iso for text; auto tells it from the values, and refuses to guess."""
    event: str | EventColumn | None = None
    """A column that names the event of a row; without it every row is the source's `event`."""
    labels: dict[str, str] = {}
    """Label name to column: what came of an event, a number (click, stars, watch_ms)."""
    numbers: dict[str, str] = {}
    """Name to column: the circumstances of an event that are numbers (hour, slot, propensity)."""
    categories: dict[str, str] = {}
    """Name to column: the circumstances of an event that are one of many (device, tab, place)."""
    request_id: str | None = None
    """A column that ties an outcome to the impression it came from."""

    @model_validator(mode="after")
    def _each_name_once(self) -> "Columns":
        for name, column in self.wanted().items():
            if not column.strip() or name.endswith(".") or name != name.strip():
                raise ValueError(f"{_place(name)}: a name is empty, or begins or ends with white space")
        owners: dict[str, str] = {}
        for name in (name for name in ("user_id", "item_id", "timestamp", "event") if name in self.wanted()):
            column = self.wanted()[name]
            if column in owners:
                raise ValueError(f"{name} and {owners[column]} are both mapped to column {column!r}")
            owners[column] = name
        groups = {"labels": self.labels, "numbers": self.numbers, "categories": self.categories}
        kinds: dict[str, str] = {}
        for kind, group in groups.items():
            for name in group:
                if name in kinds:
                    raise ValueError(f"{kind}.{name}: {kinds[name]} has that name too; give one of them another")
                kinds[name] = kind
        return self

    @property
    def fields(self) -> Fields:
        """What the rows carry beyond user, item, event and time."""
        return Fields(tuple(self.labels), tuple(self.numbers), tuple(self.categories), self.request_id is not None)

    @property
    def event_names(self) -> dict[str, str]:
        """Value of the event column -> name of the event; empty where the values are the names."""
        return self.event.map if isinstance(self.event, EventColumn) else {}

    def wanted(self) -> dict[str, str]:
        """Return the configured columns by their names in EVENTS."""
        event = self.event.column if isinstance(self.event, EventColumn) else self.event
        named = {"user_id": self.user_id, "item_id": self.item_id, "timestamp": self.timestamp, "event": event}
        further = {
            **{LABEL_PREFIX + name: column for name, column in self.labels.items()},
            **{NUMBER_PREFIX + name: column for name, column in self.numbers.items()},
            **{CATEGORY_PREFIX + name: column for name, column in self.categories.items()},
            REQUEST_ID: self.request_id,
        }
        return {name: column for name, column in {**named, **further}.items() if column is not None}

    def without(self, drop: Collection[str]) -> "Columns":
        """Return the mapping without labels and context from columns that must not be read.

        Raises:
            UserError: one of them is the user, item, time, event or request column, which a log cannot do without.
        """
        for name, column in self.wanted().items():
            if column in drop and "." not in name:
                raise UserError(f"drop: {column!r} is the column of columns.{name}; map another column, or keep it")
        kept = {
            group: {name: column for name, column in mapping.items() if column not in drop}
            for group, mapping in (("labels", self.labels), ("numbers", self.numbers), ("categories", self.categories))
        }
        return self.model_copy(update=kept)


def _place(name: str) -> str:
    for prefix, group in ((LABEL_PREFIX, "labels."), (NUMBER_PREFIX, "numbers."), (CATEGORY_PREFIX, "categories.")):
        if name.startswith(prefix):
            return f"columns.{group}{name[len(prefix) :]}"
    return f"columns.{name}"


class SourceConfig(FrozenConfig):
    """One input of `ingest`."""

    path: str
    """A file, a directory or a glob; local, or a URI such as s3://bucket/logs/."""
    event: str = "interaction"
    """What a row of this source is, where no column says so."""


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task reads: it can be read again after a failure with the same outcome."""

    path: str
    index: int
    """Place in the order of all pieces of the ingestion; also names the files written beside it."""
    group: int = 0
    """Row group of a parquet file, or number of the generated part."""
    start: int = 0
    """First byte of a part of a text file: the part holds the lines that begin from here on and before `stop`."""
    stop: int | None = None
    """End of a part of a text file; None where the piece is a whole file or a row group."""

    @property
    def by_offset(self) -> bool:
        """Whether its rows are known by the byte where their line begins, not by line or row number."""
        return self.stop is not None


@dataclass(frozen=True)
class RawEvents:
    """Rows of a log under the names of EVENTS, in their original types, with the lines that are no rows."""

    table: pa.Table
    """user_id, item_id, event, timestamp, label.*, number.*, category.*, request_id, and `row`: line or row number in
    the file from 1, or the byte where the line begins in pieces by offset. Elements of a list share their row. A
    timestamp of Arrow's null type says that the log has no times; a null in any other type is a missing value. A text
    column `unequal_lists` is there where a row has lists of different lengths: their JSON, null in other rows."""
    malformed: pa.Table
    """`row` i64 and `record` string: lines that are not rows at all."""
    empty: int = 0
    """Rows that hold no event, their lists being empty or null; they are in neither table."""


MALFORMED: Final = pa.schema([pa.field("row", pa.int64()), pa.field("record", pa.string())])
"""Schema of malformed lines."""


class EventFormat(ABC):
    """An input format: lists its pieces and reads one piece at a time, never a whole log."""

    Config: ClassVar[type[SourceConfig]]

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    @property
    def fields(self) -> Fields:
        """What the rows carry beyond user, item, event and time."""
        return Fields()

    def pieces(self) -> list[Piece]:
        """List the pieces of the source in a fixed order (index counts from 0): each file is one.

        Raises:
            UserError: nothing is at the path.
        """
        return [Piece(file.path, index) for index, file in enumerate(list_files(self.config.path))]

    def estimate_rows(self) -> int | None:
        """Estimate the rows of the source from the length of its first lines; None where that cannot be told."""
        files = list_files(self.config.path)
        if any(is_compressed(file.path) or not file.size for file in files):  # hides how much there is
            return None
        num_bytes = num_lines = 0
        for file in files[:_SAMPLED_FILES]:
            with open_text(file.path) as stream:
                head = stream.read(_SAMPLED_BYTES)
            num_bytes, num_lines = num_bytes + len(head), num_lines + head.count(b"\n")
        return round(sum(file.size for file in files) * num_lines / max(num_bytes, 1))

    @property
    def time_unit(self) -> TimeUnit:
        """Unit of its times, where the format or the config says it."""
        return "auto"

    @abstractmethod
    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield the rows of a piece in their order."""

    def items(self) -> pa.Table | None:
        """Return the item table that comes with the log (item_id, title, ...), if there is one."""
        return None


class MappedSource(SourceConfig):
    """An input whose columns have the names that its owner gave them."""

    columns: Columns = Columns()


class MappedFormat(EventFormat):
    """A format of tables: the config says which column holds what."""

    config: MappedSource

    @property
    def fields(self) -> Fields:
        """What the mapped columns carry beyond user, item, event and time."""
        return self.config.columns.fields

    @property
    def time_unit(self) -> TimeUnit:
        """Unit of the times, as the config says it."""
        return self.config.columns.time_unit


def cut_files(path: str) -> list[Piece]:
    """List the pieces of text files: small ones whole, large ones in parts of about SPLIT_BYTES where they can be cut.

    Raises:
        UserError: nothing is at the path.
    """
    pieces: list[Piece] = []
    for file in list_files(path):
        num_parts = -(-file.size // SPLIT_BYTES) if can_be_cut(file.path) else 1
        if num_parts <= 1:
            pieces.append(Piece(file.path, len(pieces)))
            continue
        ends = [file.size * part // num_parts for part in range(num_parts + 1)]
        for start, stop in pairwise(ends):
            pieces.append(Piece(file.path, len(pieces), start=start, stop=stop))
    return pieces
