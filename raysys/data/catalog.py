"""The item side of a dataset: what people read about an item, its features, and how popular it was in training.

The catalog holds the items of training alone, so what is learned here (the values of a category, the mean of a
number) never depends on later periods. The functions for users do the same lane by lane, with training users.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.features import concat_blocks, latest, list_rows
from raysys.data.files import read_arrow, write_arrow
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX
from raysys.data.vocabulary import extend

_NEVER = np.iinfo(np.int64).max  # first time of an earlier item that training no longer has

CATEGORY: Final = pa.dictionary(pa.int32(), pa.string())
"""Type of a category: its dictionary is its vocabulary, null an unknown value. Lists of it hold several values."""

VALUES: Final = pa.schema([("column", pa.string()), ("value", pa.string()), ("first_time", pa.int64())])
"""The values of categories, without repetition, each with the first training time of a row that has it."""

MOMENTS: Final = pa.schema(
    [("column", pa.string()), ("count", pa.int64()), ("mean", pa.float64()), ("squares", pa.float64())]
)
"""Of each number: how many are known, their mean, and the sum of the squared distances to it."""


class Catalog:
    """One row per real item, in vocabulary order: item_id, popularity, title (null = unknown) and features.

    Features are `text.X`, `category.X` (CATEGORY or a list of it), `number.X` f32 and `vector.X`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @property
    def popularity(self) -> np.ndarray:
        """History events in training per vocabulary index [V] f32; 0 for PAD and UNKNOWN."""
        counts = self.table["popularity"].to_numpy().astype(np.float32)
        return np.concatenate([np.zeros(FIRST_ITEM, np.float32), counts])

    @property
    def statistics(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each number `X` over the items that have one."""
        return merge_moments([moments(self.table)])

    def titles(self, indices: np.ndarray) -> list[str | None]:
        """Return the titles of real-item indices."""
        return self.table["title"].take(pa.array(np.asarray(indices).reshape(-1) - FIRST_ITEM)).to_pylist()

    def save(self, path: Path) -> None:
        """Write the table as an Arrow file."""
        write_arrow(self.table, path)

    @staticmethod
    def load(path: Path) -> "Catalog":
        """Map the file that `save` wrote."""
        return Catalog(read_arrow(path))


def build_catalog(items: pa.Table, details: pa.Table | None, earlier: Catalog | None = None) -> Catalog:
    """Join the items of training (item_id, first_time, count; in vocabulary order) with blocks of details.

    Of several rows of an item the newest counts, without times the first. The values of a category are ordered by
    (first training time of an item that has it, value). With an `earlier` catalog its items keep their rows and its
    values their indices, new ones follow; items that the details no longer name keep what was known.
    """
    details = None if details is None else latest(details)
    if earlier is not None:
        items = extend(earlier.table["item_id"].combine_chunks(), items)
        details = _with_earlier(details, earlier)
    ids, first_times = items["item_id"], pc.fill_null(items["first_time"], _NEVER)
    columns = {"item_id": ids, "popularity": items["count"], "title": pa.nulls(len(ids), pa.string())}
    if details is not None:
        old = {} if earlier is None else vocabularies(earlier.table)
        values = merge_values([category_values(details, ids, first_times.to_numpy())], old)
        columns |= _encoded(_rows_of(details, ids), values)
    return Catalog(pa.table(columns).combine_chunks())


def encode_users(user_ids: pa.Array, details: pa.Table, values: Mapping[str, pa.Array]) -> pa.Table:
    """Return one row per user in the given order: user_id and features; category values not in `values` are null.

    Details hold one row per user (see `latest`); in lists, values that are not known are left out.
    """
    return pa.table({"user_id": user_ids, **_encoded(_rows_of(details, user_ids), values)}).combine_chunks()


def category_values(details: pa.Table, ids: pa.Array | pa.ChunkedArray, first_times: np.ndarray) -> pa.Table:
    """Return the VALUES that rows of these training ids carry; first_times [N] i64 ms stand beside the ids.

    Values of parts (lanes) are put together by `merge_values`.
    """
    rows = _rows_of(details, ids)
    times, parts = pa.array(first_times, pa.int64()), [VALUES.empty_table()]
    for name in _names(rows, CATEGORY_PREFIX):
        column = _whole(rows[name])
        own = times
        if pa.types.is_list(column.type):
            own, column = times.take(pa.array(list_rows(column))), pc.list_flatten(column)
        pairs = pa.table({"column": pa.repeat(name, len(column)), "value": column, "first_time": own})
        parts.append(_first(pairs.filter(column.is_valid())))
    return pa.concat_tables(parts)


def merge_values(parts: Iterable[pa.Table], earlier: Mapping[str, pa.Array] | None = None) -> dict[str, pa.Array]:
    """Return the vocabulary of each category: its `earlier` values, then new ones by (first_time, value)."""
    table = _first(pa.concat_tables(parts))
    keys = [("first_time", "ascending"), ("value", "ascending")]
    merged = dict(earlier or {})
    for name in pc.unique(table["column"]).to_pylist():
        known = merged.get(name, pa.array([], pa.string()))
        own = table.filter(pc.equal(table["column"], name)).sort_by(keys)["value"].combine_chunks()
        merged[name] = pa.concat_arrays([known, own.filter(pc.invert(pc.is_in(own, known)))])
    return merged


def vocabularies(table: pa.Table) -> dict[str, pa.Array]:
    """Return the values of each category column of a catalog or of users, in index order."""
    columns = {name: _whole(table[name]) for name in _names(table, CATEGORY_PREFIX)}
    lists = pa.types.is_list
    return {name: (c.values if lists(c.type) else c).dictionary for name, c in columns.items()}


def moments(table: pa.Table) -> pa.Table:
    """Return the MOMENTS of the number columns over the rows of a table."""
    rows = []
    for name in _names(table, NUMBER_PREFIX):
        known = table[name].drop_null().to_numpy().astype(np.float64)
        mean = float(known.mean()) if len(known) else 0.0
        rows.append({"column": name, "count": len(known), "mean": mean, "squares": float(((known - mean) ** 2).sum())})
    return pa.Table.from_pylist(rows, schema=MOMENTS)


def merge_moments(parts: Iterable[pa.Table]) -> dict[str, tuple[float, float]]:
    """Return (mean, standard deviation) of each number over all parts; (0, 0) where no row has one."""
    table, found = pa.concat_tables(parts), {}
    for name in pc.unique(table["column"]).to_pylist():
        own = table.filter(pc.equal(table["column"], name))
        count, mean, squares = (own[key].to_numpy() for key in ("count", "mean", "squares"))
        total = max(int(count.sum()), 1)
        middle = float(count @ mean) / total
        spread = float(squares.sum() + count @ (mean - middle) ** 2) / total  # within the parts, and between them
        found[name.removeprefix(NUMBER_PREFIX)] = (middle, spread**0.5)
    return found


def _with_earlier(details: pa.Table | None, earlier: Catalog) -> pa.Table:
    rows = earlier.table.drop_columns(["popularity"]).rename_columns({"item_id": "id"})
    if details is not None:
        rows = rows.filter(pc.invert(pc.is_in(rows["id"], details["id"])))
    for name in _names(rows, CATEGORY_PREFIX):
        is_list = pa.types.is_list(rows.schema.field(name).type)
        texts = rows[name].cast(pa.list_(pa.string()) if is_list else pa.string())
        rows = rows.set_column(rows.column_names.index(name), name, texts)
    return rows if details is None else concat_blocks([details, rows])


def _rows_of(details: pa.Table, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the first row of each id, nulls where there is none; without id and time."""
    own = [name for name in details.column_names if name not in ("id", "time")]
    return details.select(own).take(pc.index_in(ids, details["id"]))


def _encoded(rows: pa.Table, values: Mapping[str, pa.Array]) -> dict[str, pa.ChunkedArray | pa.Array]:
    columns: dict[str, pa.ChunkedArray | pa.Array] = {name: rows[name] for name in rows.column_names}
    for name in _names(rows, CATEGORY_PREFIX):
        columns[name] = _encode(_whole(rows[name]), values.get(name, pa.array([], pa.string())))
    return columns


def _encode(column: pa.Array, values: pa.Array) -> pa.Array:
    if not pa.types.is_list(column.type):
        return pa.DictionaryArray.from_arrays(pc.index_in(column, values), values)
    index = pc.index_in(pc.list_flatten(column), values)
    owner = list_rows(column)[index.is_valid().to_numpy(zero_copy_only=False)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(column)))]).astype(np.int32)
    codes = pa.DictionaryArray.from_arrays(index.drop_null(), values)
    return pa.ListArray.from_arrays(pa.array(offsets), codes, mask=column.is_null() if column.null_count else None)


def _first(pairs: pa.Table) -> pa.Table:
    found = pairs.group_by(["column", "value"], use_threads=False).aggregate([("first_time", "min")])
    return found.rename_columns({"first_time_min": "first_time"}).select(VALUES.names)


def _names(table: pa.Table, prefix: str) -> list[str]:
    return [name for name in table.column_names if name.startswith(prefix)]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
