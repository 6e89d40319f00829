"""Shards -> Batch. Ranks map the shards; a batch is gathered by offsets, without a Python loop over users.

Legend of shapes: B users, L history positions, C targets, N flat (row, item) pairs. Histories are padded at the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.schema import CATEGORY_PREFIX, LABEL_PREFIX, NUMBER_PREFIX, PAD, UNKNOWN, Split


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
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [E] f32, NaN = unknown
    categories: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [E] i32, UNKNOWN where it is unknown


@dataclass(frozen=True)
class History:
    """Tokens: the history events that a state may know."""

    items_BL: Tensor  # i64, PAD after the end
    events_BL: Tensor  # i64
    times_BL: Tensor  # i64, ms
    mask_BL: Tensor  # bool, true on tokens
    users_B: Tensor  # i64, row of the dataset; -1 where there is none


@dataclass(frozen=True)
class Targets:
    """Events to be predicted, each from the state strictly before it."""

    items_BC: Tensor  # i64
    anchor_BC: Tensor  # i64, last history position before the target; -1 = the learned start state
    events_BC: Tensor  # i64
    times_BC: Tensor  # i64, ms
    mask_BC: Tensor  # bool, true on targets
    labels: Mapping[str, Tensor]  # name -> [B, C] f32, NaN = unknown


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step."""

    history: History
    targets: Targets
    key: int = 0
    """Names seed and step: whatever is drawn for a batch is a function of it, the user's row and a position, so that
    any number of ranks draws the same."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return self if device.type == "cpu" else _move(self, device)


@dataclass(frozen=True)
class Queries:
    """One question per user: what comes next, given all that was before."""

    history: History
    anchor_B: Tensor  # i64, position whose state asks
    seen_rows_N: Tensor  # i64, pairs of (row, item) that the user already had
    seen_items_N: Tensor  # i64
    relevant_rows_N: Tensor  # i64, pairs of (row, item) that were held out
    relevant_items_N: Tensor  # i64

    def to(self, device: torch.device) -> "Queries":
        """Return the queries on a device."""
        return self if device.type == "cpu" else _move(self, device)


class ShardReader:
    """Random access to the rows of a dataset through memory maps."""

    def __init__(self, dataset: Dataset) -> None:
        manifest = dataset.manifest
        self.is_history = np.array([name in manifest.history for name in manifest.event_names] or [True])
        self._names = ["items", "events", "times", "marks", *(LABEL_PREFIX + label for label in manifest.labels)]
        self._context = [NUMBER_PREFIX + name for name in manifest.numbers]
        self._context += [CATEGORY_PREFIX + name for name in manifest.categories]
        self._tables = [read_arrow(path) for path in dataset.shard_paths]
        self._first_row = np.cumsum([0, *(table.num_rows for table in self._tables)])
        self._lists = [{name: _flat(table[name]) for name in self._names} for table in self._tables]

    @property
    def shard_of_row(self) -> np.ndarray:
        """Shard of every row of the dataset [U]."""
        return np.repeat(np.arange(len(self._tables)), np.diff(self._first_row))

    def user_ids(self, rows: np.ndarray) -> pa.Array:
        """Return the user ids of dataset rows."""
        columns = pa.chunked_array([table["user_id"].chunk(0) for table in self._tables if table.num_rows])
        return columns.take(pa.array(rows)).combine_chunks()

    def rows(self, rows: np.ndarray, context: bool = False) -> UserRows:
        """Gather the events of dataset rows [B], in their order; numbers and categories only with `context`."""
        shards = np.searchsorted(self._first_row, rows, side="right") - 1
        starts, lengths = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        for shard in np.unique(shards):
            here = shards == shard
            offsets, local = self._lists[shard]["items"][0], rows[here] - self._first_row[shard]
            starts[here], lengths[here] = offsets[local], offsets[local + 1] - offsets[local]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        source, owner = np.repeat(starts, lengths) + within, np.repeat(shards, lengths)
        flat = {name: self._gather(name, source, owner) for name in self._names + (self._context if context else [])}
        known = (flat["items"], flat["events"], flat["times"], flat["marks"], _named(flat, LABEL_PREFIX))
        return UserRows(offsets, *known, rows, _named(flat, NUMBER_PREFIX), _named(flat, CATEGORY_PREFIX))

    def _gather(self, name: str, source: np.ndarray, owner: np.ndarray) -> np.ndarray:
        shards = np.unique(owner)
        if len(shards) == 1:
            return self._values(shards[0], name)[source]
        values = np.empty(len(source), self._values(0, name).dtype)
        for shard in shards:
            here = owner == shard
            values[here] = self._values(shard, name)[source[here]]
        return values

    def _values(self, shard: int, name: str) -> np.ndarray:
        lists = self._lists[shard]
        if name not in lists:  # context: mapped when it is first asked for
            lists[name] = _flat(self._tables[shard][name])
        return lists[name][1]


def history_rows(histories: Sequence[np.ndarray], events: Sequence[np.ndarray] | None = None) -> UserRows:
    """Return users whose whole past is a list of item indices: what a request carries, in the shape of a shard."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.concatenate([np.zeros(0, np.int32), *histories]).astype(np.int32)
    kinds = np.zeros(len(items), np.int8) if events is None else np.concatenate([np.zeros(0, np.int8), *events])
    zeros = np.zeros(len(items), np.int64)
    return UserRows(offsets, items, kinds.astype(np.int8), zeros, zeros.astype(np.int8), {}, np.full(len(lengths), -1))


def make_batch(
    rows: UserRows,
    split: Split,
    is_history: np.ndarray,
    max_length: int,
    window: np.ndarray | None = None,
    windows_back: int = 0,
    key: int = 0,
) -> Batch:
    """Make the events of one split the targets, and at most `max_length` history events before them the tokens.

    Tokens are the newest before the last target; with `window` (a number in [0, 1) per user), longer histories are
    seen through a window that starts at that share of the possible places. Targets whose anchor lies outside are left
    out; they are in the batches of `windows_back` 1, 2, ..., until one has no targets. An item that training never
    saw is no token.
    """
    view = _View(rows, split, is_history)
    last = view.last_anchor(rows.marks == split) - windows_back * max_length
    first = np.maximum(last - max_length + 1, 0)
    if window is not None:
        first = np.floor(window * (first + 1)).astype(np.int64)
        last = np.minimum(last, first + max_length - 1)
    anchor = view.before - 1 - first[view.row]
    starts = (first == 0) & ((last >= 0) | (windows_back == 0))  # the window that holds the start state
    inside = (anchor >= 0) | ((anchor == -1) & starts[view.row])
    chosen = (rows.marks == split) & inside & (view.before - 1 <= last[view.row])
    targets, column = np.flatnonzero(chosen), _running(chosen, view.row, rows.offsets)[chosen]
    shape = (len(rows.users), int(column.max(initial=-1)) + 1)
    place = (view.row[targets], column)

    def spread(values: np.ndarray, fill: float, kind: torch.dtype = torch.int64) -> Tensor:
        out = torch.full(shape, fill, dtype=kind)
        out[place] = torch.from_numpy(values[targets]).to(kind)
        return out

    return Batch(
        view.history(first, last),
        Targets(
            items_BC=spread(rows.items, PAD),
            anchor_BC=spread(anchor, -1),
            events_BC=spread(rows.events, 0),
            times_BC=spread(rows.times, 0),
            mask_BC=spread(np.ones(len(anchor), np.int64), 0).bool(),
            labels={name: spread(values, torch.nan, torch.float32) for name, values in rows.labels.items()},
        ),
        key,
    )


def make_queries(rows: UserRows, split: Split, is_history: np.ndarray, max_length: int) -> Queries:
    """Ask one question per user from the end of the history before a split; Split.NONE asks from the very end."""
    view = _View(rows, split, is_history)
    before = rows.marks < split
    known = before & is_history[rows.events]
    tokens = np.bincount(view.row[known & (rows.items != UNKNOWN)], minlength=len(rows.users))
    first, last = np.maximum(tokens - max_length, 0), tokens - 1
    held_out = (rows.marks == split) & is_history[rows.events]
    return Queries(
        history=view.history(first, last),
        anchor_B=torch.from_numpy(last - first),
        seen_rows_N=torch.from_numpy(view.row[known]),
        seen_items_N=torch.from_numpy(rows.items[known].astype(np.int64)),
        relevant_rows_N=torch.from_numpy(view.row[held_out]),
        relevant_items_N=torch.from_numpy(rows.items[held_out].astype(np.int64)),
    )


class _View:
    """Which events of some users are tokens, as seen from one split."""

    def __init__(self, rows: UserRows, split: Split, is_history: np.ndarray) -> None:
        self.rows = rows
        self.row = np.repeat(np.arange(len(rows.users)), np.diff(rows.offsets))  # [E] owner
        self.is_token = (rows.marks <= split) & is_history[rows.events] & (rows.items != UNKNOWN)
        self.before = _running(self.is_token, self.row, rows.offsets)  # [E] tokens strictly before the event

    def last_anchor(self, is_target: np.ndarray) -> np.ndarray:
        """Return per user the largest anchor of its targets, -1 where it has none."""
        last = np.full(len(self.rows.users), -1, dtype=np.int64)
        np.maximum.at(last, self.row[is_target], self.before[is_target] - 1)
        return last

    def history(self, first: np.ndarray, last: np.ndarray) -> History:
        """Return the tokens numbered first..last of each user."""
        rows, lengths = self.rows, np.maximum(last - first + 1, 0)
        chosen = self.is_token & (self.before >= first[self.row]) & (self.before <= last[self.row])
        shape = (len(rows.users), max(int(lengths.max(initial=0)), 1))
        place = (self.row[chosen], (self.before - first[self.row])[chosen])

        def spread(values: np.ndarray) -> Tensor:
            out = np.zeros(shape, np.int64)
            out[place] = values[chosen]
            return torch.from_numpy(out)

        mask = torch.from_numpy(np.arange(shape[1]) < lengths[:, None])
        users = torch.from_numpy(rows.users)
        return History(spread(rows.items), spread(rows.events), spread(rows.times), mask, users)


def _running(flags: np.ndarray, row: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Count the flags strictly before each event within its user."""
    total = np.cumsum(flags) - flags
    at_start = np.append(total, total[-1:] + flags[-1:])[offsets[:-1]] if len(total) else np.zeros(0, np.int64)
    return total - at_start[row]


def _named(flat: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in flat.items() if name.startswith(prefix)}


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    lists = column.chunk(0) if column.num_chunks else column.combine_chunks()
    values = lists.values
    kind = np.float32 if pa.types.is_floating(values.type) else None
    numbers = values.to_numpy(zero_copy_only=values.null_count == 0)  # null labels become NaN
    return lists.offsets.to_numpy(), numbers.astype(kind, copy=False) if kind else numbers


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
    if isinstance(value, Mapping):
        return {name: _move(inner, device) for name, inner in value.items()}
    if not is_dataclass(value):
        return value
    kind: Any = type(value)
    return kind(**{field.name: _move(getattr(value, field.name), device) for field in fields(value)})
