"""Shards -> Batch. Ranks map the shards; a batch is gathered by offsets, without a Python loop over users.

Legend of shapes: B users, L history positions, C targets, N flat (row, item) pairs. Histories are padded at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysys.data.columns import Values
from raysys.data.reader import UserRows
from raysys.data.schema import PAD, UNKNOWN, Split


@dataclass(frozen=True)
class Columns:
    """Numbers and categories by name; what is not there is unknown."""

    numbers: Mapping[str, Tensor] = field(default_factory=dict)  # name -> f32 [*], NaN = unknown
    categories: Mapping[str, Tensor] = field(default_factory=dict)  # name -> i64 [*], or [*, M] for several values

    def at(self, *place: Tensor) -> "Columns":
        """Return the rows at indices."""
        numbers = {name: values[place] for name, values in self.numbers.items()}
        return Columns(numbers, {name: values[place] for name, values in self.categories.items()})

    def to(self, device: torch.device) -> "Columns":
        """Return the columns on a device."""
        return self if device.type == "cpu" else _move(self, device)


@dataclass(frozen=True)
class History:
    """Tokens: the history events that a state may know."""

    items_BL: Tensor  # i64, PAD after the end
    events_BL: Tensor  # i64
    times_BL: Tensor  # i64, ms
    mask_BL: Tensor  # bool, true on tokens
    users_B: Tensor  # i64, row of the dataset; -1 where there is none
    labels: Mapping[str, Tensor] = field(default_factory=dict)  # name -> [B, L] f32, NaN = unknown
    context: Columns = field(default_factory=Columns)  # of the tokens [B, L]
    features: Columns = field(default_factory=Columns)  # of the users [B]

    def to(self, device: torch.device) -> "History":
        """Return the history on a device."""
        return self if device.type == "cpu" else _move(self, device)


@dataclass(frozen=True)
class Targets:
    """Events to be predicted, each from the state strictly before it."""

    items_BC: Tensor  # i64
    anchor_BC: Tensor  # i64, last history position before the target; -1 = the learned start state
    events_BC: Tensor  # i64
    times_BC: Tensor  # i64, ms
    mask_BC: Tensor  # bool, true on targets
    labels: Mapping[str, Tensor]  # name -> [B, C] f32, NaN = unknown
    context: Columns = field(default_factory=Columns)  # [B, C]
    complete_B: Tensor | None = None  # bool, whether a user's newest event of the split is among the targets; None: is


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


def make_batch(
    rows: UserRows,
    split: Split,
    is_history: np.ndarray,
    max_length: int,
    window: np.ndarray | None = None,
    windows_back: int = 0,
    key: int = 0,
    live: bool = True,
    newest: bool = False,
    asked: np.ndarray | None = None,
) -> Batch:
    """Make the events of one split the targets, and at most `max_length` history events before them the tokens.

    Tokens are the newest before the last target; with `window` (a number in [0, 1) per user), longer histories are
    seen through a window that starts at that share of the possible places. Targets whose anchor lies outside are left
    out; they are in the batches of `windows_back` 1, 2, ..., until one has no targets. An item that training never
    saw is no token. Without `live`, events of the split itself are no tokens: all targets of a user have one state.
    With `newest`, a user's last event is a token too, for those who ask what follows it. With `asked` (bool [E]), other
    events are no targets; tokens stay what they are.
    """
    view = _View(rows, split, is_history, live)
    end = view.last_token(rows.marks == split, newest)
    last = end - windows_back * max_length
    first = np.maximum(last - max_length + 1, 0)
    if window is not None:
        first = np.floor(window * (first + 1)).astype(np.int64)
        last = np.minimum(last, first + max_length - 1)
    anchor = view.before - 1 - first[view.row]
    starts = (first == 0) & ((last >= 0) | (windows_back == 0))  # the window that holds the start state
    inside = (anchor >= 0) | ((anchor == -1) & starts[view.row])
    chosen = (rows.marks == split) & inside & (view.before - 1 <= last[view.row])
    if asked is not None:
        chosen &= asked
    return Batch(view.history(first, last), view.targets(chosen, anchor, last == end), key)


def make_queries(rows: UserRows, split: Split, is_history: np.ndarray, max_length: int) -> Queries:
    """Ask one question per user from the end of the history before a split; Split.NONE asks from the very end."""
    view, at = _View(rows, split, is_history), int(split)  # numpy looks long for what an enum is
    before = rows.marks < at
    known = before & is_history[rows.events]
    tokens = np.bincount(view.row[known & (rows.items != UNKNOWN)], minlength=len(rows.users))
    first, last = np.maximum(tokens - max_length, 0), tokens - 1
    held_out = (rows.marks == at) & is_history[rows.events]
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

    def __init__(self, rows: UserRows, split: Split, is_history: np.ndarray, live: bool = True) -> None:
        self.rows = rows
        self.row = np.repeat(np.arange(len(rows.users)), np.diff(rows.offsets))  # [E] owner
        known = rows.marks <= int(split) if live else rows.marks < int(split)
        self.is_token = known & is_history[rows.events] & (rows.items != UNKNOWN)
        self.before = _running(self.is_token, self.row, rows.offsets)  # [E] tokens strictly before the event

    def last_token(self, is_target: np.ndarray, newest: bool) -> np.ndarray:
        """Return per user the last token before its last target, or with it, -1 where there is none."""
        last, own = np.full(len(self.rows.users), -1, dtype=np.int64), self.is_token & newest
        np.maximum.at(last, self.row[is_target], (self.before - 1 + own)[is_target])
        return last

    def history(self, first: np.ndarray, last: np.ndarray) -> History:
        """Return the tokens numbered first..last of each user."""
        rows, lengths = self.rows, np.maximum(last - first + 1, 0)
        chosen = self.is_token & (self.before >= first[self.row]) & (self.before <= last[self.row])
        shape = (len(rows.users), max(int(lengths.max(initial=0)), 1))
        chosen = np.flatnonzero(chosen)
        place = self.row[chosen] * shape[1] + (self.before - first[self.row])[chosen]

        def spread(values: np.ndarray) -> Tensor:
            return _spread(values[chosen], place, shape, 0, np.int64)

        return History(
            items_BL=spread(rows.items),
            events_BL=spread(rows.events),
            times_BL=spread(rows.times),
            mask_BL=torch.from_numpy(np.arange(shape[1]) < lengths[:, None]),
            users_B=torch.from_numpy(rows.users),
            labels=_numbers(rows.labels, chosen, place, shape),
            context=_columns(rows.context, chosen, place, shape),
            features=Columns(
                {name: torch.from_numpy(values) for name, values in rows.features.numbers.items()},
                {name: torch.from_numpy(values).long() for name, values in rows.features.categories.items()},
            ),
        )

    def targets(self, chosen: np.ndarray, anchor: np.ndarray, complete: np.ndarray) -> Targets:
        """Return the chosen events [E] as targets, with their anchors [E] and whether users' are complete [B]."""
        rows = self.rows
        targets, column = np.flatnonzero(chosen), _running(chosen, self.row, rows.offsets)[chosen]
        shape = (len(rows.users), int(column.max(initial=-1)) + 1)
        place = self.row[targets] * shape[1] + column

        def spread(values: np.ndarray, fill: float) -> Tensor:
            return _spread(values[targets], place, shape, fill, np.int64)

        return Targets(
            items_BC=spread(rows.items, PAD),
            anchor_BC=spread(anchor, -1),
            events_BC=spread(rows.events, 0),
            times_BC=spread(rows.times, 0),
            mask_BC=spread(np.ones(len(anchor), np.int64), 0).bool(),
            labels=_numbers(rows.labels, targets, place, shape),
            context=_columns(rows.context, targets, place, shape),
            complete_B=torch.from_numpy(complete),
        )


def _running(flags: np.ndarray, row: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Count the flags strictly before each event within its user."""
    total = np.cumsum(flags) - flags
    at_start = np.append(total, total[-1:] + flags[-1:])[offsets[:-1]] if len(total) else np.zeros(0, np.int64)
    return total - at_start[row]


def _spread(
    values: np.ndarray, place: np.ndarray, shape: tuple[int, int], fill: float, kind: type[np.number]
) -> Tensor:
    """Put values at their places, row after row, of a tensor that is `fill` elsewhere.

    In numpy: torch takes four times as long for the few values of a request, and as long for those of a batch.
    """
    out = np.full(shape, fill, kind)
    out.reshape(-1)[place] = values
    return torch.from_numpy(out)


def _numbers(
    named: Mapping[str, np.ndarray], chosen: np.ndarray, place: np.ndarray, shape: tuple[int, int]
) -> dict[str, Tensor]:
    return {name: _spread(values[chosen], place, shape, np.nan, np.float32) for name, values in named.items()}


def _columns(context: Values, chosen: np.ndarray, place: np.ndarray, shape: tuple[int, int]) -> Columns:
    categories = {
        name: _spread(values[chosen], place, shape, PAD, np.int64) for name, values in context.categories.items()
    }
    return Columns(_numbers(context.numbers, chosen, place, shape), categories)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
    if isinstance(value, Mapping):
        return {name: _move(inner, device) for name, inner in value.items()}
    if not is_dataclass(value):
        return value
    kind: Any = type(value)
    return kind(**{field.name: _move(getattr(value, field.name), device) for field in fields(value)})
