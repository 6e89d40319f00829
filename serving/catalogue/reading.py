"""New items: what is told of them is read as that of training was, and gives their vectors and features."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from pydantic_core import to_json
from torch import Tensor

from raysys.data.batches import Columns
from raysys.data.schema import CATEGORY_PREFIX
from raysys.errors import UserError
from raysys.runs import Run
from serving.catalogue.changes import Fields, FieldValue
from serving.catalogue.described import ItemDescriptions


@dataclass(frozen=True)
class ReadItems:
    """Items that a run does not know, and that can be shown all the same."""

    item_ids: tuple[str, ...] = ()
    vectors_ND: Tensor | None = None  # None as well where nobody searches
    columns: Columns = field(default_factory=Columns)
    """The features [N] that tasks of pairs read."""


NO_NEW_ITEMS = ReadItems()


class ItemReader:
    """Reads by the network of one run. May be called from several threads."""

    def __init__(self, run: Run, threads: int = 1) -> None:
        self._run, self._threads, self._reading = run, threads, threading.Lock()
        self._descriptions = ItemDescriptions(run)
        self._read: dict[str, tuple[bytes, Tensor]] = {}  # item -> what was read of it, its vector

    def check(self) -> None:
        """See that new items can have vectors; the first call loads what reads them.

        Raises:
            UserError: the run knows nothing of items but ids, or what reads them is not here.
        """
        with self._reading:
            self._vectors([{"title": "new"}])

    def read(self, items: Mapping[str, Fields]) -> ReadItems:
        """Return those of some new items that have a vector, in their order; nothing is read twice.

        Raises:
            UserError: the run knows nothing of items but ids, or what reads them is not here.
        """
        told = {name: _told(fields) for name, fields in items.items() if any(map(is_read, fields))}
        with self._reading:
            unread = [name for name, own in told.items() if self._read.get(name, (b"",))[0] != own]
            if unread:
                vectors = self._vectors([items[name] for name in unread])
                self._read |= {name: (told[name], vector) for name, vector in zip(unread, vectors, strict=True)}
            found = {name: self._read[name][1] for name in told if self._read[name][1].any()}
        if not found:
            return NO_NEW_ITEMS
        columns = self._descriptions.of([items[name] for name in found])
        return ReadItems(tuple(found), torch.stack(list(found.values())), columns)

    @torch.inference_mode()
    def _vectors(self, rows: Sequence[Fields]) -> Tensor:
        network = self._run.network.recommender
        if network.vectors() is not network.items:
            raise UserError("model.backbone: it makes an item's vector from those of others, so a new one has none")
        kinds = {own.name: _plain(own.type) for own in self._run.catalog.table.schema if is_read(own.name)}
        columns = {name: [_as_column(row.get(name), kind) for row in rows] for name, kind in kinds.items()}
        torch.set_num_threads(self._threads)  # torch keeps its number of threads per thread
        rows_N = pa.table({name: pa.array(own, kinds[name]) for name, own in columns.items()})
        vectors_ND: Tensor = network.items.of_new(rows_N)
        return vectors_ND.cpu()


def is_read(name: str) -> bool:
    """Tell whether a column may be read by an item encoder."""
    return name == "title" or name.startswith((CATEGORY_PREFIX, "text."))


def _told(fields: Fields) -> bytes:
    return to_json({name: value for name, value in sorted(fields.items()) if is_read(name)})


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()


def _as_column(value: FieldValue, kind: pa.DataType) -> FieldValue:
    if pa.types.is_list(kind) and isinstance(value, str):
        return [value]
    return value
