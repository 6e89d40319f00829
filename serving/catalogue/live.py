"""The items that a replica answers with: those of its run, and what a shop has changed of them since.

A snapshot, made anew for every version of the store's changes: questions that are answered together see one of them.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from raysys.data.schema import FIRST_ITEM, NUMBER_PREFIX, UNKNOWN
from raysys.model.items.new import NewItems
from raysys.runs import Run
from serving.answers.features import NOTHING_CHANGED, Changed, ItemFeatures
from serving.catalogue.changes import WITHDRAWN, Fields, FieldValue
from serving.catalogue.reading import NO_NEW_ITEMS, ReadItems, is_read
from serving.index import Allowed


class LiveItems:
    """Names, titles, features and vectors at one version. New items come behind those of the vocabulary."""

    def __init__(
        self,
        run: Run,
        version: int = 0,
        changes: Mapping[str, Fields] | None = None,
        new: ReadItems = NO_NEW_ITEMS,
    ) -> None:
        """Put the fields of items over a run's, and new items behind its vocabulary."""
        self.version, self.changes = version, changes or {}
        self._vocabulary, self._table = run.vocabulary, run.catalog.table
        self._ids, self._known_titles = run.vocabulary.item_ids, self._table["title"].combine_chunks()
        self.num_known = len(self._ids)
        self.first_new = self.num_known + FIRST_ITEM
        """The index from which items are new."""
        self.new_ids = new.item_ids
        self.new = None if new.vectors_ND is None else NewItems(self.first_new, new.vectors_ND, new.columns)
        """What the model is told of new items."""
        self._new_at = {name: self.first_new + place for place, name in enumerate(self.new_ids)}
        self.num_items = self.num_known + len(self.new_ids)
        self._titles: dict[int, str | None] = {}
        changed, withdrawn = self._placed()
        self.features = ItemFeatures(run.catalog, changed)
        self.withdrawn = withdrawn
        """Ids that may not be shown."""
        flags_I = np.ones(self.num_items, bool)
        flags_I[self._places(withdrawn)] = False
        self.open = None if flags_I.all() else Allowed.flagged(flags_I)
        """The items that may be shown; None for all."""

    def lookup(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return indices of items, i64, UNKNOWN where there is none."""
        found = self._vocabulary.lookup(item_ids).astype(np.int64)
        if self._new_at:
            for place in np.flatnonzero(found == UNKNOWN).tolist():
                found[place] = self._new_at.get(item_ids[place], UNKNOWN)
        return found

    def new_among(self, item_ids: Iterable[str]) -> np.ndarray:
        """Return the indices of those that are new."""
        return np.array([self._new_at[name] for name in item_ids if name in self._new_at], np.int64)

    def names(self, items_K: np.ndarray) -> tuple[list[str], list[str | None]]:
        """Return ids and titles, one by one: for a few, Arrow's `take` costs ten times as much."""
        places, known = (items_K - FIRST_ITEM).tolist(), self.num_known
        ids = [self._ids[at].as_py() if at < known else self.new_ids[at - known] for at in places]
        if not self._titles:
            return ids, [self._known_titles[at].as_py() if at < known else None for at in places]
        return ids, [
            self._titles[at] if at in self._titles else self._known_titles[at].as_py() if at < known else None
            for at in places
        ]

    def popularity(self, counts_I: np.ndarray) -> np.ndarray:
        """Return counts of the run's items with those of new ones behind, which nobody had."""
        return np.append(counts_I, np.zeros(len(self.new_ids), counts_I.dtype)) if self._new_at else counts_I

    def fields(self, item_id: str) -> dict[str, FieldValue] | None:
        """Return what is known of an item, by columns of the catalog; None where nothing is."""
        place = int(self._vocabulary.lookup([item_id])[0]) - FIRST_ITEM
        if place < 0 and item_id not in self.changes:
            return None
        found: dict[str, FieldValue] = {}
        if place >= 0:
            names = [name for name in self._table.column_names if _is_field(name)]
            found = self._table.select(names).slice(place, 1).to_pylist()[0]
        return {**found, **self.changes.get(item_id, {})}

    def is_new(self, item_id: str) -> bool:
        """Tell whether an item is not of the run, and can be shown all the same."""
        return item_id in self._new_at

    def _placed(self) -> tuple[Changed, tuple[str, ...]]:
        """Return the values by column and place, and the ids that are withdrawn; notes titles."""
        if not self.changes:
            return NOTHING_CHANGED, ()
        columns: dict[str, dict[int, FieldValue]] = {}
        places = (self.lookup(list(self.changes)) - FIRST_ITEM).tolist()
        for at, fields in zip(places, self.changes.values(), strict=True):
            for name, value in fields.items() if at >= 0 else ():
                columns.setdefault(name, {})[at] = value
        self._titles = columns.pop("title", {})  # type: ignore[assignment]
        withdrawn = tuple(name for name, fields in self.changes.items() if fields.get(WITHDRAWN))
        return Changed(len(self.new_ids), columns), withdrawn

    def _places(self, item_ids: Sequence[str]) -> np.ndarray:
        found = self.lookup(item_ids) if item_ids else np.zeros(0, np.int64)
        return found[found >= FIRST_ITEM] - FIRST_ITEM


def _is_field(name: str) -> bool:
    return is_read(name) or name.startswith(NUMBER_PREFIX)
