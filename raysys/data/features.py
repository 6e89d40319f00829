"""Columns of item and user tables in one form each: text, category, number or vector, whatever a file held them as.

A block of a table has `id` string, `time` i64 ms (only where rows change over time), `title` and `text.X` string,
`category.X` string or list<string>, `number.X` f32, `vector.X` fixed_size_list<f32>; null is unknown. A vector column
without a single vector is of Arrow's null type until another block tells the length.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.values import as_text, to_floats
from raysys.errors import UserError

TEXT_PREFIX: Final = "text."
VECTOR_PREFIX: Final = "vector."
FILE: Final = b"file"
"""Key in the metadata of a block's schema: the file it comes from, for messages."""


def text_column(column: pa.ChunkedArray, where: str) -> pa.Array:
    """Return trimmed texts; those of a list stand on lines of their own, blank ones are null.

    Raises:
        UserError: the column holds records or maps.
    """
    values = _plain(column, where)
    if not _is_list(values.type):
        return _not_blank(_as_words(values))
    words, owner = _flatten(values, where)
    return _not_blank(pc.binary_join(_lists(_as_words(words), owner, len(values)), "\n"))


def category_column(column: pa.ChunkedArray, where: str) -> pa.Array:
    """Return trimmed texts, or for (nested) lists the distinct texts of each row in their order; blank is null.

    Raises:
        UserError: the column holds records or maps.
    """
    values = _plain(column, where)
    if not _is_list(values.type):
        return _not_blank(_as_words(values))
    words, owner = _flatten(values, where)
    words = _not_blank(_as_words(words))
    codes = words.dictionary_encode()
    known = np.flatnonzero(codes.is_valid().to_numpy(zero_copy_only=False))
    code = codes.indices.drop_null().to_numpy()
    pairs = owner[known] * np.int64(len(codes.dictionary) + 1) + code
    kept = known[np.sort(np.unique(pairs, return_index=True)[1])]
    return _lists(words.take(pa.array(kept)), owner[kept], len(values), values)


def number_column(column: pa.ChunkedArray, where: str) -> pa.Array:
    """Return f32 numbers, null where there is none or it is not finite; text is read as a number.

    Raises:
        UserError: the column holds lists, records or times.
    """
    values = _plain(column, where)
    if _is_list(values.type):
        raise UserError(f"{where} holds {values.type} values; numbers are expected (list it under `vectors:`?)")
    return _floats(values, where)


def vector_column(column: pa.ChunkedArray, where: str, length: int | None = None) -> pa.Array:
    """Return vectors of one length: the given one, else that of the first row that has one.

    A row is a list of numbers, or text that holds numbers between blanks, commas, semicolons or bars. Empty rows and
    rows with a number that is not finite are null. Without any row the result is of Arrow's null type.

    Raises:
        UserError: the column holds no such lists, or lists of two lengths.
    """
    values = _plain(column, where)
    if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        bare = pc.utf8_trim(_as_words(values), "[]() \t\r\n")
        values = pc.split_pattern_regex(_not_blank(bare), r"[\s,;|]+")
    elif not _is_list(values.type) and not pa.types.is_null(values.type):
        raise UserError(f"{where} holds {values.type} values; a vector is a list of numbers (or text that holds them)")
    flat, owner = _flatten(values, where)
    lengths = np.bincount(owner, minlength=len(values))
    filled = np.flatnonzero(lengths)
    if not len(filled):
        return pa.nulls(len(values))
    length = int(lengths[filled[0]]) if length is None else length
    if len(other := filled[lengths[filled] != length]):
        raise UserError(f"{where} holds vectors of {length} and of {lengths[other[0]]} numbers; one length is allowed")
    numbers = np.zeros((len(values), length), np.float32)
    numbers[filled] = _floats(flat, where).to_numpy(zero_copy_only=False).reshape(-1, length)  # null becomes NaN
    unknown = (lengths == 0) | ~np.isfinite(numbers).all(axis=1)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), length, mask=pa.array(unknown))


def list_rows(lists: pa.Array) -> np.ndarray:
    """Return the row of each element that `pc.list_flatten` gives [.] i64; null rows have none."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return np.repeat(np.arange(len(lists)), lengths)


def union_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the schema that holds the blocks of a whole table: where one has lists or vectors, all have.

    Raises:
        UserError: vectors of a column have different lengths in two files.
    """
    fields: dict[str, pa.DataType] = {}
    files: dict[str, str] = {}
    for schema in schemas:
        file = (schema.metadata or {}).get(FILE, b"the table").decode()
        for field in schema:
            known = fields.get(field.name, pa.null())
            if pa.types.is_null(known) or pa.types.is_list(field.type):
                fields[field.name] = field.type
                files[field.name] = file
            elif pa.types.is_fixed_size_list(field.type) and field.type != known:
                raise UserError(
                    f"{file}: {field.name} holds vectors of {field.type.list_size} numbers, and {files[field.name]} "
                    f"of {known.list_size}; one length is allowed"
                )
    return pa.schema(fields.items())


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a block with the columns of `union_schema`: missing ones are null, single categories become lists."""
    return pa.table({field.name: _conformed(table, field) for field in schema}, schema=schema)


def concat_blocks(blocks: Sequence[pa.Table]) -> pa.Table:
    """Return the blocks of a table as one, in their order.

    Raises:
        UserError: vectors of a column have different lengths in two files.
    """
    schema = union_schema(block.schema for block in blocks)
    return pa.concat_tables([conform(block, schema) for block in blocks])


def latest(details: pa.Table, until: int | None = None) -> pa.Table:
    """Return one row per id, in the order of their first rows: the one with the newest time, of ties the last.

    Rows after `until` (ms) are left out. Without times it is the first row of an id.
    """
    if "time" in details.column_names and until is not None:
        details = details.filter(pc.less_equal(details["time"], until))
    codes = _whole(details["id"]).dictionary_encode().indices.to_numpy()
    if "time" not in details.column_names:
        return details.take(pa.array(np.unique(codes, return_index=True)[1]))
    order = np.lexsort((details["time"].to_numpy(), codes))
    newest = np.append(codes[order][1:] != codes[order][:-1], True)[: len(order)]
    return details.take(pa.array(order[newest]))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _plain(column: pa.ChunkedArray, where: str) -> pa.Array:
    """Return one array without dictionary; large and view types become the usual ones."""
    values, of = _whole(column), pa.types
    if of.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    if of.is_struct(values.type) or of.is_map(values.type):
        raise UserError(f"{where} holds {values.type} values; text, numbers or lists of them are expected")
    if of.is_large_list(values.type) or of.is_fixed_size_list(values.type):
        values = pc.cast(values, pa.list_(values.type.value_type))
    if of.is_large_string(values.type) or of.is_string_view(values.type):
        values = pc.cast(values, pa.string())
    return values


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind))


def _flatten(values: pa.Array, where: str) -> tuple[pa.Array, np.ndarray]:
    """Return the elements of lists of any depth, and for each its row [.] i64."""
    owner = np.arange(len(values), dtype=np.int64)
    if pa.types.is_null(values.type):
        return values.slice(0, 0), owner[:0]
    while _is_list(values.type):
        owner = owner[list_rows(values)]
        values = _plain(pa.chunked_array([pc.list_flatten(values)]), where)
    return values, owner


def _lists(values: pa.Array, owner: np.ndarray, num_rows: int, like: pa.Array | None = None) -> pa.Array:
    """Gather the non-null elements of each row; rows that are null in `like` are null."""
    known = values.is_valid()
    owner = owner[known.to_numpy(zero_copy_only=False)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=num_rows))]).astype(np.int32)
    mask = None if like is None or not like.null_count else like.is_null()
    return pa.ListArray.from_arrays(pa.array(offsets), values.filter(known), mask=mask)


def _as_words(values: pa.Array) -> pa.Array:
    """Return values as trimmed text: whole numbers as their digits (12.0 from a file with gaps is 12)."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, None)
    return _whole(as_text(pa.chunked_array([values]), is_id=False))


def _not_blank(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.match_substring_regex(texts, r"\S"), texts, None)


def _floats(values: pa.Array, where: str) -> pa.Array:
    kind, of = values.type, pa.types
    known = (of.is_null, of.is_string, of.is_binary, of.is_boolean, of.is_integer, of.is_floating, of.is_decimal)
    if not any(is_kind(kind) for is_kind in known):
        raise UserError(f"{where} holds {kind} values; numbers are expected")
    numbers = _whole(to_floats(pa.chunked_array([values]))[0])
    return pc.if_else(pc.is_finite(numbers), numbers, None)


def _conformed(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    if not pa.types.is_list(field.type) or not pa.types.is_string(column.type):
        return column.cast(field.type)
    texts = _whole(column)
    return _lists(texts, np.arange(len(texts)), len(texts), texts)
