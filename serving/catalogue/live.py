"""The items that a replica answers with: those of its run, and what a shop has changed of them since.

A snapshot, made anew for every version of the store's changes: questions that are answered together see one of them.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from pydantic_core import to_json
from torch import Tensor

from raysys.data.batches import Columns
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX, UNKNOWN
from raysys.errors import UserError
from raysys.model.items.new import NewItems
from raysys.runs import Run
from serving.answers.features import NOTHING_CHANGED, Changed, ItemFeatures
from serving.catalogue.changes import WITHDRAWN, FieldValue, ItemChange
from serving.catalogue.described import ItemDescriptions
from serving.index import Allowed

_log = logging.getLogger("ray.serve")
Fields = Mapping[str, FieldValue]


class LiveItems:
    """Names, titles, features and vectors at one version. New items come behind those of the vocabulary."""

    def __init__(
        self,
        run: Run,
        version: int = 0,
        changes: Mapping[str, Fields] | None = None,
        new: Mapping[str, Tensor] | None = None,
        columns: Columns | None = None,
    ) -> None:
        """Put the fields of items over a run's; new items, with vectors and features, behind its vocabulary."""
        self.version, self.changes = version, changes or {}
        self._vocabulary, self._table = run.vocabulary, run.catalog.table
        self._ids, self._known_titles = run.vocabulary.item_ids, self._table["title"].combine_chunks()
        self.num_known = len(self._ids)
        self.first_new = self.num_known + FIRST_ITEM
        """The index from which items are new."""
        self.new_ids = tuple(new or ())
        self.new = NewItems(self.first_new, torch.stack(list(new.values())), columns or Columns()) if new else None
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


class Overlay:
    """Gathers changes for one run, and makes snapshots of them; `read_new` alone may be called from several threads."""

    def __init__(self, run: Run, threads: int = 1) -> None:
        self._run, self._threads, self._reading = run, threads, threading.Lock()
        self._changes: dict[str, Fields] = {}
        self._descriptions = ItemDescriptions(run)
        self._read: dict[str, tuple[bytes, Tensor]] = {}  # new item -> what was read of it, its vector
        self.live = LiveItems(run)
        """The newest snapshot."""

    def apply(self, version: int, changes: Sequence[ItemChange]) -> LiveItems:
        """Take changes up to a version; one before that of the newest snapshot begins anew."""
        self._changes = merged(self._changes if version >= self.live.version else {}, changes)
        try:
            new = self.read_new(self._changes)
        except UserError as error:
            _log.warning("new items are not shown: %s", error)
            new = {}
        columns = self._descriptions.of([self._changes[name] for name in new])
        self.live = LiveItems(self._run, version, self._changes, new, columns)
        return self.live

    def check_new(self) -> None:
        """See that new items can have vectors; the first call loads what reads them.

        Raises:
            UserError: the run knows nothing of items but ids, or what reads them is not here.
        """
        with self._reading:
            self._vectors([{"title": "new"}])

    def read_new(self, changes: Mapping[str, Fields]) -> dict[str, Tensor]:
        """Return the vectors of items that the run does not know, in their order; nothing is read twice.

        Those of which nothing is told that the run reads are left out.

        Raises:
            UserError: the run knows nothing of items but ids, or what reads them is not here.
        """
        told = {name: _told(fields) for name, fields in changes.items() if any(map(_is_read, fields))}
        known = self._run.vocabulary.lookup(list(told)) >= FIRST_ITEM
        told = {name: own for (name, own), is_known in zip(told.items(), known, strict=True) if not is_known}
        with self._reading:
            unread = [name for name, own in told.items() if self._read.get(name, (b"",))[0] != own]
            if unread:
                vectors = self._vectors([changes[name] for name in unread])
                self._read |= {name: (told[name], vector) for name, vector in zip(unread, vectors, strict=True)}
            return {name: self._read[name][1] for name in told if self._read[name][1].any()}

    @torch.inference_mode()
    def _vectors(self, rows: Sequence[Fields]) -> Tensor:
        network = self._run.network.recommender
        if network.vectors() is not network.items:
            raise UserError("model.backbone: it makes an item's vector from those of others, so a new one has none")
        kinds = {own.name: _plain(own.type) for own in self._run.catalog.table.schema if _is_read(own.name)}
        columns = {name: [_as_column(row.get(name), kind) for row in rows] for name, kind in kinds.items()}
        torch.set_num_threads(self._threads)  # torch keeps its number of threads per thread
        rows_N = pa.table({name: pa.array(own, kinds[name]) for name, own in columns.items()})
        vectors_ND: Tensor = network.items.of_new(rows_N)
        return vectors_ND


def merged(changes: Mapping[str, Fields], further: Sequence[ItemChange]) -> dict[str, Fields]:
    """Return fields by item with later ones in the places of earlier ones."""
    found = dict(changes)
    for one in further:
        found[one.item_id] = {**found.get(one.item_id, {}), **one.fields}
    return found


def _told(fields: Fields) -> bytes:
    return to_json({name: value for name, value in sorted(fields.items()) if _is_read(name)})


def _is_field(name: str) -> bool:
    return _is_read(name) or name.startswith(NUMBER_PREFIX)


def _is_read(name: str) -> bool:
    """Tell whether a column may be read by an item encoder."""
    return name == "title" or name.startswith((CATEGORY_PREFIX, "text."))


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()


def _as_column(value: FieldValue, kind: pa.DataType) -> FieldValue:
    if pa.types.is_list(kind) and isinstance(value, str):
        return [value]
    return value
