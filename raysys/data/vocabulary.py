"""item_id <-> index. Order is (first time in training, item_id), so any order of files gives the same indices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.files import read_arrow, write_arrow
from raysys.data.schema import FIRST_ITEM, NEVER, PAD, UNKNOWN

_AT_A_TIME = 1 << 16  # texts that are Python objects at the same time


class Vocabulary:
    """The items of the training period. Index 0 pads, index 1 stands for every other item."""

    def __init__(self, item_ids: pa.Array) -> None:
        self.item_ids = item_ids  # [V - 2] string, in index order
        self._found: _Index | None = None

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

    def lookup(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return the indices of a few ids, i32, UNKNOWN where there is none: for requests, some microseconds."""
        if self._found is None:
            self._found = _Index(self.item_ids)
        return self._found.lookup(item_ids)

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


class _Index:
    """Ids by hash: two sorted arrays, 12 bytes an item, where a dict of millions of texts takes hundreds of megabytes.

    The hash is Python's own, so the index lives and dies with the process.
    """

    def __init__(self, item_ids: pa.Array) -> None:
        texts = item_ids.cast(pa.large_string())
        starts = range(0, len(texts), _AT_A_TIME)
        hashes = [_hashes(texts[start : start + _AT_A_TIME].to_pylist()) for start in starts]
        hashes_V = np.concatenate([np.zeros(0, np.int64), *hashes])
        self._order_V = np.argsort(hashes_V).astype(np.int32)
        self._hashes_V = hashes_V[self._order_V]
        _, offsets, content = texts.buffers()
        self._ends = np.frombuffer(offsets, np.int64)[texts.offset :] if len(texts) else np.zeros(1, np.int64)
        self._content = memoryview(content or b"")

    def lookup(self, item_ids: Sequence[str]) -> np.ndarray:
        hashes_N, last = _hashes(item_ids), len(self._order_V) - 1
        if last < 0:
            return np.full(len(item_ids), UNKNOWN, np.int32)
        at_N = np.minimum(np.searchsorted(self._hashes_V, hashes_N), last)
        same_N, rows_N = self._hashes_V[at_N] == hashes_N, self._order_V[at_N]
        bounds = (same_N.tolist(), self._ends[rows_N].tolist(), self._ends[rows_N + 1].tolist())
        for place, (item_id, same, first, end) in enumerate(zip(item_ids, *bounds, strict=True)):
            if same and bytes(self._content[first:end]) != _bytes(item_id):
                rows_N[place] = self._next(_bytes(item_id), int(at_N[place]))
        return np.where(same_N, rows_N + FIRST_ITEM, UNKNOWN).astype(np.int32)

    def _next(self, text: bytes, at: int) -> int:
        """Return the row of a text among those of the same hash, of which the first is another text's."""
        end = int(np.searchsorted(self._hashes_V, self._hashes_V[at], side="right"))
        for row in self._order_V[at + 1 : end].tolist():
            if bytes(self._content[self._ends[row] : self._ends[row + 1]]) == text:
                return int(row)
        return UNKNOWN - FIRST_ITEM


def _bytes(item_id: str) -> bytes:
    return item_id.encode("utf-8", "surrogatepass")


def _hashes(texts: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, texts), np.int64, len(texts))


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
