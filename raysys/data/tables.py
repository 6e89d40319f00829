"""Tables of items and users: their configs, the pieces that tasks read, and the reading in blocks of bounded size."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator, model_validator

from raysys.component import FrozenConfig
from raysys.data.features import (
    FILE,
    TEXT_PREFIX,
    VECTOR_PREFIX,
    category_column,
    concat_blocks,
    number_column,
    text_column,
    vector_column,
)
from raysys.data.formats.source import Piece
from raysys.data.places import list_files
from raysys.data.schema import CATEGORY_PREFIX, NUMBER_PREFIX
from raysys.data.table_files import num_groups, read_rows
from raysys.data.times import TimeUnit, detect_unit, to_milliseconds
from raysys.data.values import as_text, plain
from raysys.errors import UserError

_OWN = ("item_id", "popularity")


class TableConfig(FrozenConfig):
    """A table with one row per item or user, or with a row for every change of one."""

    section: ClassVar[str] = "table"

    path: str
    """A file, a directory, a glob or a URI; .parquet, .csv, .tsv or JSON lines, text also as .gz or .zst."""
    text: tuple[str, ...] = ()
    """Columns to be read by a text encoder; the texts of a list are joined."""
    categories: tuple[str, ...] = ()
    """Columns with one value, or a list of values, out of many."""
    numbers: tuple[str, ...] = ()
    """Columns with a number; what is not finite is unknown."""
    vectors: tuple[str, ...] = ()
    """Columns with a list of numbers, of the same length in every row."""
    timestamp: str | None = None
    """A column with the time from which a row holds, for tables that change: events see the row of their own time."""
    time_unit: TimeUnit = "auto"
    """Unit of `timestamp`; `auto` tells it from the values."""

    def features(self) -> list[tuple[str, str]]:
        """Return (kind, column) of every feature."""
        kinds = {"text": self.text, "categories": self.categories, "numbers": self.numbers, "vectors": self.vectors}
        return [(kind, name) for kind, names in kinds.items() for name in names]

    @model_validator(mode="after")
    def _one_kind_per_column(self) -> "TableConfig":
        names = [name for _, name in self.features()]
        for name in names:
            if not name:
                raise ValueError("a column has an empty name; leave it out")
            if names.count(name) > 1:
                raise ValueError(f"column {name!r} is listed twice; it is text, a category, a number or a vector")
        if self.timestamp is not None and (self.text or self.vectors):
            kind, name = ("text", self.text[0]) if self.text else ("vectors", self.vectors[0])
            raise ValueError(
                f"{kind} ({name!r}) cannot change over time; with `timestamp:` only numbers and categories are joined: "
                "leave out `timestamp:`, or put what does not change into a table of its own"
            )
        return self


class ItemsConfig(TableConfig):
    """What is known about items."""

    section: ClassVar[str] = "items"

    id: str = "item_id"
    """Column with the item id used in the logs."""
    title: str | None = "title"
    """Column with the text that people read."""

    @field_validator("categories")
    @classmethod
    def _no_name_of_our_own(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in _OWN:
                raise ValueError(f"{name!r} is a column that the catalog makes itself; rename the one in your table")
        return value


class UsersConfig(TableConfig):
    """What is known about users."""

    section: ClassVar[str] = "users"

    id: str = "user_id"
    """Column with the user id used in the logs."""


@dataclass
class TableReport:
    """Counts of reading a table: rows = kept + without_id + without_time + malformed, always."""

    rows: int = 0
    kept: int = 0
    without_id: int = 0
    without_time: int = 0
    """Rows of a table with `timestamp:` whose time cannot be read."""
    malformed: int = 0
    """Lines that are no rows."""


def table_pieces(config: ItemsConfig | UsersConfig) -> list[Piece]:
    """List the parts of a table that can be read on their own, at least one per file: row groups of parquet.

    Raises:
        UserError: nothing is at the path, or a file is of a kind that is not read.
    """
    parts = [
        (file.path, group) for file in list_files(config.path) for group in range(num_groups(file.path, config.section))
    ]
    return [Piece(path, index, group) for index, (path, group) in enumerate(parts)]


def read_table(
    config: ItemsConfig | UsersConfig, piece: Piece, drop: Collection[str] = (), report: TableReport | None = None
) -> Iterator[pa.Table]:
    """Yield a piece in blocks of bounded size, in the form of `raysys.data.features`; rows are counted in `report`.

    A piece without rows is one empty block. Columns named in `drop` are left out. Rows without an id, or without a
    readable time where there is a `timestamp`, are left out and counted.

    Raises:
        UserError: the file cannot be read, a column is missing or of a kind that cannot be read, or the id is dropped.
    """
    report = TableReport() if report is None else report
    wanted = _wanted(config, drop)
    lengths: dict[str, int] = {}
    known = config.time_unit != "auto"
    unit: str | None = config.time_unit if known else None
    for table, malformed in read_rows(piece.path, piece.group, wanted.values(), config.section):
        columns: dict[str, Any] = {"id": as_text(plain(table[config.id], f"{config.section}.id", piece.path))}
        if config.timestamp is not None:
            where = f"{piece.path}: {config.section}.timestamp ({config.timestamp!r})"
            unit = unit or detect_unit(table[config.timestamp], where)
            columns["time"] = to_milliseconds(table[config.timestamp], unit, known)
        for name, (place, column) in wanted.items():
            if name not in columns:
                where = f"{piece.path}: {config.section}.{place}: column {column!r}"
                columns[name] = _feature(name, table[column], where, lengths)
                if config.timestamp is not None and pa.types.is_list(columns[name].type):
                    raise UserError(f"{where} holds lists, which cannot change over time; leave out `timestamp:`")
        yield _kept(pa.table(columns, metadata={FILE: piece.path}), malformed, report)


def read_details(
    config: ItemsConfig | UsersConfig, drop: Collection[str] = (), wanted: pa.Array | None = None
) -> tuple[pa.Table, TableReport]:
    """Read a whole table that one process can hold, or of a larger one the rows with the ids in `wanted`.

    Raises:
        UserError: as for `read_table`; or the table has no row with an id, or no vector in a column of vectors.
    """
    report, blocks = TableReport(), []
    for piece in table_pieces(config):
        for block in read_table(config, piece, drop, report):
            blocks.append(block if wanted is None else block.filter(pc.is_in(block["id"], wanted)))
    if not report.kept:
        raise UserError(f"{config.section}.path: {config.path}: the table has no rows with {config.id!r} (and a time)")
    table = concat_blocks(blocks)
    for field in table.schema:
        if pa.types.is_null(field.type):
            name = field.name.removeprefix(VECTOR_PREFIX)
            raise UserError(f"{config.section}.vectors: {config.path}: no row has a vector in {name!r}")
    return table, report


def details_of(table: pa.Table) -> pa.Table:
    """Return the item table that comes with a format (item_id, title, ...) as details: other columns are categories."""
    others = {
        name: category_column(table[name], name) for name in table.column_names if name not in ("item_id", "title")
    }
    columns = {"id": as_text(table["item_id"]), "title": text_column(table["title"], "title")}
    return pa.table(columns | {CATEGORY_PREFIX + name: column for name, column in others.items()})


def _wanted(config: ItemsConfig | UsersConfig, drop: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return {name in a block: (config key, column of the file)}, the id and time first."""
    fixed = {"id": ("id", config.id)}
    if config.timestamp is not None:
        fixed["time"] = ("timestamp", config.timestamp)
    for place, column in fixed.values():
        if column in drop:
            raise UserError(f"drop: {column!r} is {config.section}.{place} and cannot be dropped; take it off the list")
    wanted = {}
    if isinstance(config, ItemsConfig) and config.title is not None:
        wanted["title"] = ("title", config.title)
    kinds = {
        "text": (TEXT_PREFIX, config.text),
        "categories": (CATEGORY_PREFIX, config.categories),
        "numbers": (NUMBER_PREFIX, config.numbers),
        "vectors": (VECTOR_PREFIX, config.vectors),
    }
    for place, (prefix, columns) in kinds.items():
        wanted |= {prefix + column: (place, column) for column in columns}
    return fixed | {name: source for name, source in wanted.items() if source[1] not in drop}


def _feature(name: str, column: pa.ChunkedArray, where: str, lengths: dict[str, int]) -> pa.Array:
    if name.startswith(VECTOR_PREFIX):
        vectors = vector_column(column, where, lengths.get(name))
        if not pa.types.is_null(vectors.type):
            lengths[name] = vectors.type.list_size
        return vectors
    if name.startswith(CATEGORY_PREFIX):
        return category_column(column, where)
    return number_column(column, where) if name.startswith(NUMBER_PREFIX) else text_column(column, where)


def _kept(block: pa.Table, malformed: int, report: TableReport) -> pa.Table:
    """Return the rows that have an id and, where the table has times, a time; count the others."""
    named = pc.fill_null(pc.not_equal(block["id"], ""), False)
    timed = pc.is_valid(block["time"]) if "time" in block.column_names else named
    good = block.filter(pc.and_(named, timed))
    report.rows += block.num_rows + malformed
    report.malformed += malformed
    report.without_id += block.num_rows - pc.sum(named).as_py() if block.num_rows else 0
    report.without_time += pc.sum(pc.and_not(named, timed)).as_py() if block.num_rows else 0
    report.kept += good.num_rows
    return good
