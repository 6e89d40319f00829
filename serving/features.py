"""What a run's catalog says of items beside ids: categories and numbers, read where they are mapped."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.catalog import Catalog
from raysys.data.features import list_rows
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX


class ItemFeatures:
    """The columns of a catalog. Flags are over real items: place i is vocabulary index i + FIRST_ITEM."""

    def __init__(self, catalog: Catalog) -> None:
        self._table = catalog.table
        self.num_items = catalog.table.num_rows
        self.categories, self.numbers = self._names(CATEGORY_PREFIX), self._names(NUMBER_PREFIX)

    def has_value(self, category: str, values: Sequence[str]) -> np.ndarray:
        """Return which items have one of the values of a category, bool [I]."""
        column = self._whole(CATEGORY_PREFIX + category)
        if not pa.types.is_list(column.type):
            return self._wanted(column, values)
        found = np.zeros(self.num_items, bool)
        found[list_rows(column)[self._wanted(column.flatten(), values)]] = True
        return found

    def in_range(self, number: str, at_least: float | None, at_most: float | None) -> np.ndarray:
        """Return which items have a number that lies within bounds, both included, bool [I]."""
        values = self._whole(NUMBER_PREFIX + number).to_numpy(zero_copy_only=False)
        found = ~np.isnan(values)
        if at_least is not None:
            found &= values >= np.float32(at_least)
        if at_most is not None:
            found &= values <= np.float32(at_most)
        return found

    def values(self, category: str, items: np.ndarray) -> list[tuple[str, ...]]:
        """Return the values of a category of some items, by vocabulary index; () where it is not known."""
        found = self._table[CATEGORY_PREFIX + category].take(pa.array(items - FIRST_ITEM)).to_pylist()
        return [() if one is None else tuple(one) if isinstance(one, list) else (one,) for one in found]

    def _wanted(self, column: pa.DictionaryArray, values: Sequence[str]) -> np.ndarray:
        codes = pc.index_in(pa.array(values, pa.string()), column.dictionary).drop_null()
        return pc.is_in(column.indices, codes.cast(column.indices.type)).to_numpy(zero_copy_only=False)

    def _whole(self, name: str) -> pa.Array:
        column = self._table[name]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def _names(self, prefix: str) -> tuple[str, ...]:
        return tuple(name.removeprefix(prefix) for name in self._table.column_names if name.startswith(prefix))
