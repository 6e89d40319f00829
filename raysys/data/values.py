"""Casting of raw columns: ids and names to text, labels and numbers to floats, whatever type a file gives them."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import UserError

_NUMBER: Final = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$"
_NOT_FINITE: Final = r"^[-+]?(?i:nan|inf|infinity)$"


def plain(column: pa.ChunkedArray, name: str, source: str) -> pa.ChunkedArray:
    """Return a column without Arrow's encodings: text as string, bytes as binary, everything else as it is.

    Raises:
        UserError: the column is of a type that no text, number or time can be read from.
    """
    kind, of = column.type, pa.types
    if of.is_dictionary(kind):
        return plain(pc.cast(column, kind.value_type), name, source)
    if of.is_large_string(kind) or of.is_string_view(kind):
        return pc.cast(column, pa.string())
    if of.is_large_binary(kind) or of.is_binary_view(kind) or of.is_fixed_size_binary(kind):
        return pc.cast(column, pa.binary())
    known = (of.is_null, of.is_boolean, of.is_integer, of.is_floating, of.is_decimal, of.is_timestamp, of.is_date)
    if not is_text(kind) and not any(is_kind(kind) for is_kind in known):
        raise UserError(
            f"{source}: {name}: its column holds {kind} values; text, numbers or times are expected: map another column"
        )
    return column


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a plain column of this type holds text, maybe as bytes."""
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def as_text(column: pa.ChunkedArray, is_id: bool = True) -> pa.ChunkedArray:
    """Read ids and names as text without white space around it; a whole number is its digits, 12.0 too.

    Null where bytes are no UTF-8, and for an id where a number is not whole.
    """
    kind = column.type
    if pa.types.is_binary(kind):
        column = _decoded(column, "strict")
    if pa.types.is_floating(kind):  # 12.0 from a file with gaps is id 12
        numbers = pc.cast(column, pa.float64())
        whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**63))
        digits = pc.cast(pc.cast(pc.if_else(whole, numbers, None), pa.int64(), safe=False), pa.string())
        return digits if is_id else pc.coalesce(digits, pc.cast(numbers, pa.string()))
    if not is_text(kind):
        return pc.cast(column, pa.string())
    return pc.utf8_trim_whitespace(column) if _may_have_white_space(column) else column


def is_blank(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return where text is null or empty [N] bool; None where it is nowhere so."""
    lengths = pc.binary_length(column)
    if column.null_count == 0 and (pc.min(lengths).as_py() or 0) > 0:
        return None
    mask: np.ndarray = pc.equal(pc.fill_null(lengths, 0), 0).to_numpy()
    return mask if mask.any() else None


def to_floats(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    """Read numbers as f32, null where unknown, and return where a value was given that is none [N] bool (or None)."""
    kind = column.type
    if is_text(kind):
        text = readable_text(column)
        numbers = cast_or_none(text, pa.float64())
        if numbers is None:
            numbers = parse_numbers(text)
            special = pc.match_substring_regex(pc.utf8_trim_whitespace(text), _NOT_FINITE)
            numbers = pc.if_else(pc.fill_null(special, False), float("nan"), numbers)
            given = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(text), ""), False)
            wrong: np.ndarray = pc.and_(given, pc.is_null(numbers)).to_numpy()
            return pc.cast(numbers, pa.float32(), safe=False), wrong if wrong.any() else None
        return pc.cast(numbers, pa.float32(), safe=False), None
    if pa.types.is_date32(kind):
        column = pc.cast(column, pa.int32())
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = pc.cast(column, pa.int64())
    elif pa.types.is_decimal(kind):
        column = pc.cast(column, pa.float64(), safe=False)
    return pc.cast(column, pa.float32(), safe=False), None


def parse_numbers(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast text to f64, null where it is no number, and where it is not finite by name (nan, inf)."""
    numbers = cast_or_none(text, pa.float64())
    if numbers is not None:  # Arrow's cast raises for a whole column
        special = pc.invert(pc.is_finite(numbers))
        return pc.if_else(special, None, numbers) if pc.any(special).as_py() else numbers
    trimmed = pc.utf8_trim_whitespace(text)
    looks = pc.match_substring_regex(trimmed, _NUMBER)
    unsigned = pc.replace_substring_regex(pc.if_else(pc.fill_null(looks, False), trimmed, None), r"^\+", "")
    return pc.cast(unsigned, pa.float64())


def readable_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text in which undecodable bytes are marked, so that it is no number and no time."""
    return _decoded(column, "replace") if pa.types.is_binary(column.type) else column


def _decoded(column: pa.ChunkedArray, errors: str) -> pa.ChunkedArray:
    text = cast_or_none(column, pa.string())
    if text is not None:
        return text
    return pa.chunked_array([pa.array([_decode(value, errors) for value in column.to_pylist()], pa.string())])


def _decode(value: bytes | None, errors: str) -> str | None:
    try:
        return None if value is None else value.decode(errors=errors)
    except UnicodeDecodeError:
        return None


def cast_or_none(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Cast a column, or return None where one of its values refuses."""
    try:
        return pc.cast(column, kind)
    except pa.ArrowInvalid:
        return None


def _may_have_white_space(text: pa.ChunkedArray) -> bool:
    """Tell from the bytes of a string column whether trimming could change anything: far cheaper than trimming."""
    for chunk in text.chunks:
        _, offsets, data = chunk.buffers()
        if data is None or len(chunk) == 0:
            continue
        ends = np.frombuffer(offsets, np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
        used = np.frombuffer(data, np.uint8)[ends[0] : ends[1]]
        if len(used) and (used.min() <= ord(" ") or used.max() >= 0x80):  # beyond ASCII there are more spaces
            return True
    return False
