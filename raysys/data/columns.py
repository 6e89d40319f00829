"""Numbers and categories of a table of items or users as arrays: what a model may be told beside ids.

A category is an index into its values, which begin at FIRST_ITEM; UNKNOWN stands for a value that training does not
know, PAD fills up the rows of a category with several values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX, PAD, UNKNOWN


class ColumnSchema(BaseModel):
    """Which columns there are."""

    model_config = ConfigDict(frozen=True)

    numbers: tuple[str, ...] = ()
    categories: dict[str, int] = {}
    """Size of the index of each, PAD and UNKNOWN included."""
    lists: dict[str, int] = {}
    """Of the categories with several values: the most that a row has."""

    @property
    def num_columns(self) -> int:
        """How many there are."""
        return len(self.numbers) + len(self.categories)

    def __bool__(self) -> bool:
        return self.num_columns > 0


@dataclass(frozen=True)
class Values:
    """Values of some rows; N of them."""

    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [N] f32, NaN = unknown
    categories: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [N] i32, or [N, M] for several values


def column_schema(table: pa.Table | None) -> ColumnSchema:
    """Describe the numbers and categories of a catalog or of a table of users; None is a table without any."""
    if table is None:
        return ColumnSchema()
    categories, lists = {}, {}
    for name in _names(table, CATEGORY_PREFIX):
        column = _whole(table[CATEGORY_PREFIX + name])
        if pa.types.is_list(column.type):
            lists[name] = int(np.diff(column.offsets.to_numpy()).max(initial=1))
            column = column.values
        categories[name] = len(column.dictionary) + FIRST_ITEM
    return ColumnSchema(numbers=tuple(_names(table, NUMBER_PREFIX)), categories=categories, lists=lists)


def values_of(table: pa.Table) -> Values:
    """Return the numbers and categories of all rows of a table."""
    return TableRows(table)[np.arange(table.num_rows)]


class TableRows:
    """Numbers and categories of any rows of a table; of one that is mapped, only columns with gaps are copied."""

    def __init__(self, table: pa.Table) -> None:
        """Look at every column once: what Arrow asks per column is a lot for some hundred rows."""
        columns = {name: _whole(table[CATEGORY_PREFIX + name]) for name in _names(table, CATEGORY_PREFIX)}
        self._numbers = {name: _floats(_whole(table[NUMBER_PREFIX + name])) for name in _names(table, NUMBER_PREFIX)}
        self._codes = {name: _places(column) for name, column in columns.items() if not pa.types.is_list(column.type)}
        self._lists = {name: column for name, column in columns.items() if pa.types.is_list(column.type)}

    def __getitem__(self, rows: np.ndarray) -> Values:
        """Return the values of rows [N]."""
        categories = {name: codes[rows] + np.int32(FIRST_ITEM) for name, codes in self._codes.items()}
        categories |= {name: _indices(column.take(pa.array(rows))) for name, column in self._lists.items()}
        return Values({name: values[rows] for name, values in self._numbers.items()}, categories)


def _floats(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)  # null becomes NaN


def _indices(column: pa.ListArray) -> np.ndarray:
    flat = column.flatten()
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    found = np.full((len(column), max(int(lengths.max(initial=1)), 1)), PAD, np.int32)
    found[lengths == 0, 0] = UNKNOWN
    found[np.arange(found.shape[1]) < lengths[:, None]] = _places(flat) + FIRST_ITEM
    return found


def _places(column: pa.DictionaryArray) -> np.ndarray:
    """Return places in the dictionary, less than any where there is none."""
    return pc.fill_null(column.indices.cast(pa.int32()), UNKNOWN - FIRST_ITEM).to_numpy(zero_copy_only=False)


def _names(table: pa.Table, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in table.column_names if name.startswith(prefix)]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
