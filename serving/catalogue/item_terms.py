"""Checks what is said of items against the columns of a run's catalog."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from raysys.data.features import TEXT_PREFIX
from raysys.data.schema import CATEGORY_PREFIX, NUMBER_PREFIX
from raysys.errors import nearest
from serving.catalogue.changes import FieldValue
from serving.errors import RefusedError

_KINDS = {CATEGORY_PREFIX: "categories", NUMBER_PREFIX: "numbers", TEXT_PREFIX: "texts"}


def item_fields(features: Mapping[str, FieldValue], schema: pa.Schema, where: str) -> dict[str, FieldValue]:
    """Return features under the names of catalog columns.

    Raises:
        RefusedError: there is no such column, or a value is not of its kind.
    """
    found: dict[str, FieldValue] = {}
    for name, value in features.items():
        columns = {prefix + name: prefix for prefix in _KINDS if prefix + name in schema.names}
        if not columns:
            there = [one.removeprefix(prefix) for prefix in _KINDS for one in schema.names if one.startswith(prefix)]
            told = f"{where}.{name}: items have no column of this name{nearest(name, there)} ({_there(schema)})"
            raise RefusedError(400, "bad_request", told)
        for column in columns:
            if (wanted := _misfit(value, schema.field(column).type)) is not None:
                raise RefusedError(400, "bad_request", f"{where}.{name}: {wanted} is expected ({_there(schema)})")
            found[column] = value
    return found


def shown_fields(fields: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    """Return fields of catalog columns by the names that clients use, without title and withdrawal."""
    prefixes = tuple(_KINDS)
    return {name.partition(".")[2]: value for name, value in fields.items() if name.startswith(prefixes)}


def _misfit(value: Any, kind: pa.DataType) -> str | None:
    """Return what is expected where a value is none of it."""
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return None if isinstance(value, int | float) else "a number"
    if pa.types.is_list(kind):
        return None if isinstance(value, str | tuple) else "a text, or a list of texts,"
    return None if isinstance(value, str) else "a text"


def _there(schema: pa.Schema) -> str:
    parts = []
    for prefix, told in _KINDS.items():
        names = [name.removeprefix(prefix) for name in schema.names if name.startswith(prefix)]
        parts.append(f"{told}: {', '.join(names) or 'none'}")
    return "; ".join(parts)
