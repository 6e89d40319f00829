"""Rows of a dataset through memory maps: gathered by offsets, without a Python loop over users.

Legend of shapes: B users, E events of all of them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raysys.data.columns import TableRows, Values
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.schema import CATEGORY_PREFIX, LABEL_PREFIX, NUMBER_PREFIX, Split

_USERS_AT_A_TIME = 4096


@dataclass(frozen=True)
class UserRows:
    """Events of some users as flat arrays: what a shard holds, and what serving makes of a request."""

    offsets: np.ndarray  # [B + 1] i64
    items: np.ndarray  # [E] i32, vocabulary index
    events: np.ndarray  # [E] i8, index into the manifest's event names
    times: np.ndarray  # [E] i64, ms
    marks: np.ndarray  # [E] i8, Split
    labels: Mapping[str, np.ndarray]  # name -> [E] f32, NaN = unknown
    users: np.ndarray  # [B] i64, row of the dataset; -1 where there is none
    context: Values = field(default_factory=Values)  # of the events [E]
    features: Values = field(default_factory=Values)  # of the users [B]


class ShardReader:
    """Random access to the rows of a dataset through memory maps."""

    def __init__(self, dataset: Dataset, columns: bool = False, labels: Collection[str] | None = None) -> None:
        """Map the shards; with `columns`, rows also have the context of events and the features of users.

        Of the labels all are read, or only the named ones.
        """
        manifest = dataset.manifest
        wanted = [label for label in manifest.labels if labels is None or label in labels]
        self.is_history = np.array([name in manifest.history for name in manifest.event_names] or [True])
        self._names = ["items", "events", "times", "marks", *(LABEL_PREFIX + label for label in wanted)]
        self._numbers = [NUMBER_PREFIX + name for name in manifest.numbers] if columns else []
        self._categories = [CATEGORY_PREFIX + name for name in manifest.categories] if columns else []
        self._names += self._numbers + self._categories
        users = read_arrow(dataset.users_path) if columns and manifest.user_columns else None
        self._users = None if users is None else TableRows(users)
        self._tables = [read_arrow(path) for path in dataset.shard_paths]
        self._places = dataset.item_places
        self._first_row = np.cumsum([0, *(table.num_rows for table in self._tables)])
        self._lists = [{name: _flat(table[name]) for name in self._names} for table in self._tables]
        if dataset.trains_on_validation:
            for lists in self._lists:
                offsets, marks = lists["marks"]
                lists["marks"] = offsets, np.where(marks == Split.VALID, np.int8(Split.TRAIN), marks)

    @property
    def shard_of_row(self) -> np.ndarray:
        """Shard of every row of the dataset [U]."""
        return np.repeat(np.arange(len(self._tables)), np.diff(self._first_row))

    def user_ids(self, rows: np.ndarray) -> pa.Array:
        """Return the user ids of dataset rows."""
        columns = pa.chunked_array([table["user_id"].chunk(0) for table in self._tables if table.num_rows])
        return columns.take(pa.array(rows)).combine_chunks()

    def rows(self, rows: np.ndarray, chosen: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None) -> UserRows:
        """Gather the events of dataset rows [B], in their order.

        `chosen` picks events: it gets the offsets [B + 1] and marks [E] of all, and returns bool [E].
        """
        shards = np.searchsorted(self._first_row, rows, side="right") - 1
        starts, lengths = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        present = np.unique(shards)
        for shard in present:
            here = shards == shard
            offsets, local = self._lists[shard]["items"][0], rows[here] - self._first_row[shard]
            starts[here], lengths[here] = offsets[local], offsets[local + 1] - offsets[local]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        source, owner = np.repeat(starts, lengths) + within, np.repeat(shards, lengths)
        if chosen is not None:
            kept = chosen(offsets, self._gather("marks", source, owner, present))
            source, owner = source[kept], owner[kept]
            offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
        flat = {name: self._gather(name, source, owner, present) for name in self._names}
        items = flat["items"] if self._places is None else self._places[flat["items"]]
        known = (items, flat["events"], flat["times"], flat["marks"], _named(flat, LABEL_PREFIX))
        context = Values(_named(flat, NUMBER_PREFIX), _named(flat, CATEGORY_PREFIX))
        features = Values() if self._users is None else self._users[rows]
        return UserRows(offsets, *known, rows, context, features)

    def parts(self, rows: np.ndarray) -> Iterator[UserRows]:
        """Yield the events of dataset rows, some thousand users at a time: for statistics over all of them."""
        return (self.rows(rows[at : at + _USERS_AT_A_TIME]) for at in range(0, len(rows), _USERS_AT_A_TIME))

    def _gather(self, name: str, source: np.ndarray, owner: np.ndarray, shards: np.ndarray) -> np.ndarray:
        if len(shards) == 1:
            return self._values(shards[0], name)[source]
        values = np.empty(len(source), self._values(0, name).dtype)
        for shard in shards:
            here = owner == shard
            values[here] = self._values(shard, name)[source[here]]
        return values

    def _values(self, shard: int, name: str) -> np.ndarray:
        return self._lists[shard][name][1]


def history_rows(histories: Sequence[np.ndarray], events: Sequence[np.ndarray] | None = None) -> UserRows:
    """Return users whose whole past is a list of item indices: what a request carries, in the shape of a shard."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.concatenate([np.zeros(0, np.int32), *histories]).astype(np.int32)
    kinds = np.zeros(len(items), np.int8) if events is None else np.concatenate([np.zeros(0, np.int8), *events])
    zeros = np.zeros(len(items), np.int64)
    return UserRows(offsets, items, kinds.astype(np.int8), zeros, zeros.astype(np.int8), {}, np.full(len(lengths), -1))


def _named(flat: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in flat.items() if name.startswith(prefix)}


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    lists = column.chunk(0) if column.num_chunks else column.combine_chunks()
    values = lists.values
    kind = np.float32 if pa.types.is_floating(values.type) else None
    numbers = values.to_numpy(zero_copy_only=values.null_count == 0)  # null labels become NaN
    return lists.offsets.to_numpy(), numbers.astype(kind, copy=False) if kind else numbers
