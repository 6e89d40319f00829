"""What is known of items beside ids: categories and numbers, of a run's catalog where they are mapped, and changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.catalog import Catalog
from raysys.data.features import list_rows
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX


@dataclass(frozen=True)
class Changed:
    """Values that are not those of the catalog, by column: place of the item, counted from 0, -> value."""

    num_new: int = 0
    """Items behind those of the catalog."""
    columns: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)


NOTHING_CHANGED = Changed()


class ItemFeatures:
    """The columns of a catalog. Flags are over real items: place i is vocabulary index i + FIRST_ITEM."""

    def __init__(self, catalog: Catalog, changed: Changed = NOTHING_CHANGED) -> None:
        self._table, self._changed = catalog.table, changed
        self._num_known = catalog.table.num_rows
        self.num_items = self._num_known + changed.num_new
        self.categories, self.numbers = self._names(CATEGORY_PREFIX), self._names(NUMBER_PREFIX)

    def has_value(self, category: str, values: Sequence[str]) -> np.ndarray:
        """Return which items have one of the values of a category, bool [I]."""
        name = CATEGORY_PREFIX + category
        column, found = self._whole(name), np.zeros(self.num_items, bool)
        if not pa.types.is_list(column.type):
            found[: self._num_known] = self._wanted(column, values)
        else:
            found[list_rows(column)[self._wanted(column.flatten(), values)]] = True
        if changed := self._changed.columns.get(name):
            wanted = set(values)
            found[list(changed)] = [not wanted.isdisjoint(_several(own)) for own in changed.values()]
        return found

    def in_range(self, number: str, at_least: float | None, at_most: float | None) -> np.ndarray:
        """Return which items have a number that lies within bounds, both included, bool [I]."""
        name = NUMBER_PREFIX + number
        values = self._whole(name).to_numpy(zero_copy_only=False)
        if self._changed.num_new:
            values = np.append(values, np.full(self._changed.num_new, np.nan, np.float32))
        if changed := self._changed.columns.get(name):
            values = values.copy()
            values[list(changed)] = [np.nan if own is None else own for own in changed.values()]
        found = ~np.isnan(values)
        if at_least is not None:
            found &= values >= np.float32(at_least)
        if at_most is not None:
            found &= values <= np.float32(at_most)
        return found

    def values(self, category: str, items: np.ndarray) -> list[tuple[str, ...]]:
        """Return the values of a category of some items, by vocabulary index; () where it is not known."""
        name, places = CATEGORY_PREFIX + category, items - FIRST_ITEM
        known = pa.array(places, mask=places >= self._num_known)
        found = [_several(one) for one in self._table[name].take(known).to_pylist()]
        if changed := self._changed.columns.get(name):
            found = [
                _several(changed[at]) if at in changed else own for at, own in zip(places.tolist(), found, strict=True)
            ]
        return found

    def _wanted(self, column: pa.DictionaryArray, values: Sequence[str]) -> np.ndarray:
        codes = pc.index_in(pa.array(values, pa.string()), column.dictionary).drop_null()
        return pc.is_in(column.indices, codes.cast(column.indices.type)).to_numpy(zero_copy_only=False)

    def _whole(self, name: str) -> pa.Array:
        column = self._table[name]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def _names(self, prefix: str) -> tuple[str, ...]:
        return tuple(name.removeprefix(prefix) for name in self._table.column_names if name.startswith(prefix))


def _several(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
