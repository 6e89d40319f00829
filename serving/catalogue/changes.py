"""What a shop says of its items since the run was trained: fields by the names of catalog columns, and withdrawals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

WITHDRAWN = "withdrawn"
"""The field that tells whether an item may not be shown; the others are columns of a catalog."""

FieldValue = bool | float | str | tuple[str, ...] | list[str] | None
"""Of a field: whether, a number, a text or category, the values of a category with several; None for not known."""

Fields = Mapping[str, FieldValue]
"""Of one item, by name."""


class ItemChange(NamedTuple):
    """New values of some fields of one item."""

    item_id: str
    fields: Mapping[str, FieldValue]


def by_item(fields: Iterable[tuple[str, str, FieldValue]]) -> list[ItemChange]:
    """Return changes from (item, name, value), one for each item."""
    found: dict[str, dict[str, FieldValue]] = {}
    for item_id, name, value in fields:
        found.setdefault(item_id, {})[name] = value
    return [ItemChange(item_id, own) for item_id, own in found.items()]


def merged(changes: Mapping[str, Fields], further: Sequence[ItemChange]) -> dict[str, Fields]:
    """Return fields by item with later ones in the places of earlier ones."""
    found = dict(changes)
    for one in further:
        found[one.item_id] = {**found.get(one.item_id, {}), **one.fields}
    return found
