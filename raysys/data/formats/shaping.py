"""From a file's columns to the names of EVENTS: renaming, and lists that become one event per element."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.formats.source import MALFORMED, Columns, RawEvents
from raysys.data.schema import CATEGORY_PREFIX, LABEL_PREFIX, NUMBER_PREFIX
from raysys.data.validation import UNEQUAL_LISTS
from raysys.errors import UserError, nearest

_GROUPS = {LABEL_PREFIX: "labels.", NUMBER_PREFIX: "numbers.", CATEGORY_PREFIX: "categories."}


def check_columns(path: str, wanted: Mapping[str, str], found: Sequence[str]) -> None:
    """Check that every configured column is in a file, once.

    Raises:
        UserError: one is missing or stands there twice.
    """
    for name, column in wanted.items():
        prefix = next((prefix for prefix in _GROUPS if name.startswith(prefix)), "")
        place = f"columns.{_GROUPS.get(prefix, '')}{name.removeprefix(prefix)}"
        if column not in found:
            raise UserError(
                f"{path}: {place}: there is no column {column!r}{nearest(column, found)} "
                f"(the file has: {', '.join(found)})"
            )
        if list(found).count(column) > 1:
            raise UserError(f"{path}: {place}: the file has more than one column {column!r}; rename one of them")


def shape(table: pa.Table, columns: Columns, event: str, rows: pa.Array, bad: pa.Table | None = None) -> RawEvents:
    """Pick and rename the configured columns [N], unroll lists, and name the event where no column does.

    `rows` [N] i64 is where each row stands in its file; `bad` are malformed lines beside them.
    """
    picked = {name: table[column] for name, column in columns.wanted().items()}
    unrolled, empty = _unroll(pa.table({**picked, "row": rows}))
    arrays = {name: _typed(unrolled[name]) for name in unrolled.column_names}
    arrays.setdefault("timestamp", pa.nulls(unrolled.num_rows))
    arrays.setdefault("event", pa.repeat(pa.scalar(event), unrolled.num_rows))
    return RawEvents(pa.table(arrays), MALFORMED.empty_table() if bad is None else bad, empty)


def malformed(rows: np.ndarray, records: Sequence[str]) -> pa.Table:
    """Return lines that are no rows, with where they stand, as a table of MALFORMED."""
    return pa.table({"row": pa.array(rows, pa.int64()), "record": pa.array(records, pa.string())}, schema=MALFORMED)


def _typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without a single value as text: the null type means that the log has no such column."""
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _unroll(table: pa.Table) -> tuple[pa.Table, int]:
    """Return one row per element of the lists, and how many rows had none.

    A list that is missing beside others is a missing value of each element; so is an empty one beside a single item.
    """
    names = [field.name for field in table.schema if _is_list(field.type)]
    if not names:
        return table, 0
    lists = {name: _as_list(table[name].combine_chunks()) for name in names}
    known = [pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64) for column in lists.values()]
    counts = np.maximum(np.max(known, axis=0), 0 if "item_id" in lists else 1)
    missing = [
        column.is_null().to_numpy(zero_copy_only=False) | ((length == 0) & ("item_id" not in lists))
        for column, length in zip(lists.values(), known, strict=True)
    ]
    unequal = np.any([(length != counts) & ~gone for length, gone in zip(known, missing, strict=True)], axis=0)
    counts = np.where(unequal, 1, counts)
    owner = np.repeat(np.arange(table.num_rows), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = {}
    for name in table.column_names:
        if name in lists:
            place = lists[name].offsets.to_numpy()[owner] + within
            without = (unequal | missing[names.index(name)])[owner]
            columns[name] = lists[name].values.take(pa.array(place, mask=without))
        else:
            columns[name] = table[name].take(pa.array(owner))
    if unequal.any():
        columns[UNEQUAL_LISTS] = _texts(lists, np.where(unequal[owner], owner, -1))
    return pa.table(columns), int(np.sum(counts == 0))


def _as_list(column: pa.Array) -> pa.Array:
    of, kind = pa.types, column.type
    return column if of.is_list(kind) or of.is_large_list(kind) else column.cast(pa.list_(kind.value_type))


def _texts(lists: Mapping[str, pa.Array], owner: np.ndarray) -> pa.Array:
    """Return the lists of the given rows as JSON, null where the row is -1."""
    bad = pa.array(owner[owner >= 0])
    values = zip(*(column.take(bad).to_pylist() for column in lists.values()), strict=True)
    texts = iter([json.dumps(dict(zip(lists, row, strict=True)), default=str) for row in values])
    return pa.array([next(texts) if row >= 0 else None for row in owner], pa.string())


def _is_list(kind: pa.DataType) -> bool:
    of = pa.types
    known = (of.is_list, of.is_large_list, of.is_fixed_size_list, of.is_list_view, of.is_large_list_view)
    return any(is_kind(kind) for is_kind in known)
