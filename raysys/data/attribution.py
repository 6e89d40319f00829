"""Labels that one event gives another: the purchase that follows an impression makes it a positive one.

An outcome goes to one event at most, and an event whose window is still open when the log ends is unknown, not 0.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from raysys.component import FrozenConfig
from raysys.data.lanes import LaneEvents
from raysys.data.schema import REQUEST_ID
from raysys.data.times import Duration
from raysys.errors import UserError, nearest


class LabelJoin(FrozenConfig):
    """A label that later events of the same user and item set."""

    event: str | None = None
    """The event that sets the label (the outcome); by default the one that has the label's name."""
    on: str
    """The event that receives it."""
    within: Duration
    """An outcome counts up to this long after the event that receives it, to the millisecond."""
    attribute: Literal["last", "first"] = "last"
    """Which of several matching events receives an outcome: the newest or the oldest within the window."""

    @model_validator(mode="after")
    def _two_events(self) -> "LabelJoin":
        if self.event == self.on:
            raise ValueError(f"event and on are both {self.on!r}; an event cannot set its own label")
        if self.within <= 0:
            raise ValueError("within must be longer than 0")
        return self


def attribute(lane: LaneEvents, join: LabelJoin, outcome: str, known_until: np.ndarray) -> pa.Array:
    """Return the label f32 [E]: 1.0 where an outcome arrived, 0.0 where none can any more, null elsewhere.

    Every outcome goes to one `on` event of its user and item that is at most `join.within` older; events of the same
    millisecond count as older. Where the outcome has a request_id that such an event has too, only those with this
    request_id are asked. It needs a log with times.

    Args:
        lane: the events of whole users.
        join: what to join.
        outcome: name of the label, and of the event that sets it where `join.event` names none.
        known_until: i64 ms [E], until when the outcomes of each event are known: later ones are not looked at, and a
            window that ends later is open (`horizons`).

    Raises:
        UserError: the dataset has no event of one of the two names, or both are the same.
    """
    on, sets = _code(lane, join.on, outcome), _code(lane, join.event or outcome, outcome)
    if on == sets:
        raise UserError(f"labels.{outcome}: {join.on!r} would set its own label; name the event that sets it: `event:`")
    shown, came = np.flatnonzero(lane.events == on), np.flatnonzero(lane.events == sets)
    receivers, senders = _receivers(lane, shown, came, join)
    in_time = lane.times[senders] <= known_until[receivers]
    labels = np.zeros(len(lane), np.float32)
    labels[receivers[in_time]] = 1
    known = np.zeros(len(lane), bool)
    known[shown] = (lane.times[shown] <= known_until[shown] - join.within) | (labels[shown] == 1)
    return pa.array(labels, mask=~known)


def horizons(lane: LaneEvents, marks: np.ndarray, log_end_ms: int, periods: tuple[int, int] | None) -> np.ndarray:
    """Return until when the outcomes of each event are known i64 ms [E]: no label looks into a later period.

    Args:
        lane: the events of whole users.
        marks: Split of each event [E].
        log_end_ms: time of the newest event of the whole log.
        periods: begin of validation and of test in ms, where these are moments for all users; otherwise each user's
            periods end where the first event with a later mark lies.
    """
    if periods is not None:
        ends = np.array([periods[0] - 1, periods[1] - 1, log_end_ms])
        return np.minimum(ends[np.maximum(marks, 0)], log_end_ms)
    until = np.full(len(lane), log_end_ms)
    changes = np.flatnonzero((np.diff(marks) > 0) & (np.diff(lane.owner) == 0)) + 1  # the first event of a period
    run = np.searchsorted(changes, np.arange(len(lane)), side="right")
    following = np.append(changes, -1)[run]
    inside = (following >= 0) & (lane.owner == lane.owner[following])
    until[inside] = lane.times[following[inside]] - 1
    return until


def _code(lane: LaneEvents, name: str, label: str) -> int:
    if name not in lane.event_names:
        has = ", ".join(lane.event_names)
        raise UserError(
            f"labels.{label}: no event is called {name!r}{nearest(name, lane.event_names)} (the log has {has})"
        )
    return lane.event_names.index(name)


def _receivers(lane: LaneEvents, shown: np.ndarray, came: np.ndarray, join: LabelJoin) -> tuple[np.ndarray, np.ndarray]:
    """Return the events [*] that received an outcome, and beside them the outcomes [*]."""
    if len(came) == 0:
        return came, came
    owner, num_items = lane.owner, len(lane.item_ids)
    rows, keys, asked = _matching(
        owner[shown] * num_items + lane.items[shown], owner[came] * num_items + lane.items[came]
    )
    shown = shown[rows]
    found = np.full(len(came), -1)
    if REQUEST_ID in lane.columns:
        both = lane.columns[REQUEST_ID].take(pa.array(np.concatenate([shown, came])))
        requests = pc.dictionary_encode(both)
        codes = pc.fill_null(requests.indices, -1).to_numpy()
        old, new = np.flatnonzero(codes[: len(shown)] >= 0), np.flatnonzero(codes[len(shown) :] >= 0)
        old_keys = keys[old] * len(requests.dictionary) + codes[old]
        new_keys = asked[new] * len(requests.dictionary) + codes[len(shown) + new]
        rows, old_keys, new_keys = _matching(old_keys, new_keys)
        old = old[rows]
        receiver = _nearest_in_time(old_keys, lane.times[shown[old]], new_keys, lane.times[came[new]], join)
        found[new[receiver >= 0]] = old[receiver[receiver >= 0]]
    rest = np.flatnonzero(found < 0)
    found[rest] = _nearest_in_time(keys, lane.times[shown], asked[rest], lane.times[came[rest]], join)
    return shown[found[found >= 0]], came[found >= 0]


def _matching(keys: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the places in keys of those that are asked for, and small numbers for these keys and for the asked ones.

    Few impressions have an outcome: only those are sorted later, and small numbers leave room for a second key.
    """
    wanted, numbers = np.unique(asked, return_inverse=True)
    if len(wanted) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), numbers
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    rows = np.flatnonzero(wanted[place] == keys)
    return rows, place[rows], numbers


def _nearest_in_time(
    keys: np.ndarray, times: np.ndarray, asked: np.ndarray, until: np.ndarray, join: LabelJoin
) -> np.ndarray:
    """Return for each asked key [A] the place in keys [N] of the newest (or oldest) equal one in its window, or -1.

    Events come in time order within a key. Key and rank of the time share one integer, so that one sorted array
    answers every window by two binary searches, whatever the length of a user.
    """
    if len(keys) == 0:
        return np.full(len(asked), -1)
    moments = np.unique(times)
    width = len(moments) + 1
    marks = keys * width + np.searchsorted(moments, times)
    order = np.argsort(marks, kind="stable")
    marks = marks[order]
    low = np.searchsorted(marks, asked * width + np.searchsorted(moments, until - join.within, side="left"))
    high = np.searchsorted(marks, asked * width + np.searchsorted(moments, until, side="right"))
    chosen = high - 1 if join.attribute == "last" else low
    return np.where(low < high, order[np.minimum(chosen, len(order) - 1)], -1)
