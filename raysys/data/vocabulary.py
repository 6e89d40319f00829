"""item_id <-> index. Order is (first time in training, item_id), so any order of files gives the same indices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.files import read_arrow, write_arrow
from raysys.data.schema import FIRST_ITEM, NEVER, PAD, UNKNOWN


class Vocabulary:
    """The items of the training period. Index 0 pads, index 1 stands for every other item."""

    def __init__(self, item_ids: pa.Array) -> None:
        self.item_ids = item_ids  # [V - 2] string, in index order
        self._index: dict[str, int] | None = None

    def __len__(self) -> int:
        """Number of indices, PAD and UNKNOWN included: the rows of an item table."""
        return len(self.item_ids) + FIRST_ITEM

    @property
    def num_items(self) -> int:
        """Number of real items."""
        return len(self.item_ids)

    def encode(self, item_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Return i32 indices; ids that training never saw become UNKNOWN."""
        found = pc.index_in(item_ids, self.item_ids)
        shifted = pc.fill_null(pc.add(found, FIRST_ITEM), UNKNOWN)
        return shifted.combine_chunks() if isinstance(shifted, pa.ChunkedArray) else shifted

    def lookup(self, item_id: str) -> int:
        """Return the index of one item id, UNKNOWN where it has none; constant time, for requests."""
        if self._index is None:
            self._index = {name: place + FIRST_ITEM for place, name in enumerate(self.item_ids.to_pylist())}
        return self._index.get(item_id, UNKNOWN)

    def decode(self, indices: np.ndarray) -> pa.Array:
        """Return the item ids of real-item indices (any shape is flattened).

        Raises:
            ValueError: an index is PAD, UNKNOWN or beyond the vocabulary.
        """
        flat = np.asarray(indices).reshape(-1)
        if len(flat) and (flat.min() <= max(PAD, UNKNOWN) or flat.max() >= len(self)):
            raise ValueError(f"indices from {FIRST_ITEM} to {len(self) - 1} name items, not {flat.min()}..{flat.max()}")
        return self.item_ids.take(pa.array(flat - FIRST_ITEM))

    def save(self, path: Path) -> None:
        """Write the item ids as an Arrow file."""
        write_arrow(pa.table({"item_id": self.item_ids}), path)

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        """Map the file that `save` wrote."""
        return Vocabulary(read_arrow(path)["item_id"].combine_chunks())


@dataclass(frozen=True)
class Merged:
    """The items of many parts, in vocabulary order: (first time in training, item_id); those of NEVER come last."""

    items: pa.Table  # TRAIN_ITEMS
    places: list[np.ndarray]  # of each part: the row in `items` of each of its rows, i32

    @property
    def learned(self) -> pa.Table:
        """The items that training met."""
        return self.items.filter(pa.array(self.items["first_time"].to_numpy() < NEVER))


def merge_items(parts: Sequence[pa.Table]) -> Merged:
    """Add up the TRAIN_ITEMS of disjoint users."""
    table = pa.concat_tables(parts)
    coded = table["item_id"].combine_chunks().dictionary_encode()
    codes = coded.indices.to_numpy()
    first = np.full(len(coded.dictionary), NEVER)
    np.minimum.at(first, codes, table["first_time"].to_numpy())
    counts = np.zeros(len(coded.dictionary), np.int64)
    np.add.at(counts, codes, table["count"].to_numpy())
    merged = pa.table({"item_id": coded.dictionary, "first_time": first, "count": counts})
    order = pc.sort_indices(merged, sort_keys=[("first_time", "ascending"), ("item_id", "ascending")])
    place = np.empty(len(order), np.int32)
    place[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    ends = np.cumsum([part.num_rows for part in parts])[:-1]
    return Merged(merged.take(order).combine_chunks(), np.split(place[codes], ends))


def extend(earlier: pa.Array, merged: pa.Table) -> pa.Table:
    """Put the ids of an earlier vocabulary first, in their order: they keep their index; new ones follow in theirs.

    Earlier ids that no training event names any more stay, with a count of 0.
    """
    place = pc.index_in(earlier, merged["item_id"].combine_chunks())
    kept = merged.select(["first_time", "count"]).take(place)
    known = pa.table({"item_id": earlier, "first_time": kept["first_time"], "count": pc.fill_null(kept["count"], 0)})
    fresh = merged.filter(pc.invert(pc.is_in(merged["item_id"], earlier)))
    return pa.concat_tables([known, fresh.cast(known.schema)]).combine_chunks()
