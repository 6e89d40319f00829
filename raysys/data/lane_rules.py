"""Rules that need all events of a user at once: exact duplicates, and bursts that no person makes.

Each returns a mask of the events that break it. What happens to those is the caller's business.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.lanes import LaneEvents

MINUTE_MS: Final = 60_000
_NAN_BITS: Final = np.float32(np.nan).view(np.uint32)


def duplicates(lane: LaneEvents, has_time: bool) -> np.ndarray:
    """Return true [E] on every later exact copy of an event; the first in the order of the sources is no copy.

    Copies agree in user, item, event, time and every column but `position`; two unknown values (null or NaN) agree.
    Without times nothing is a duplicate: a user may well watch the same film twice.
    """
    copies = np.zeros(len(lane), bool)
    if not has_time or len(lane) == 0:
        return copies
    begins = np.empty(len(lane), bool)
    begins[0] = True
    np.not_equal(lane.times[1:], lane.times[:-1], out=begins[1:])
    begins[_first_events(lane)] = True
    if begins.all():
        return copies
    tied = ~begins
    tied[:-1] |= ~begins[1:]
    rows = np.flatnonzero(tied)
    moments = np.cumsum(begins[rows])
    again = _seen_twice(moments, lane.items[rows], lane.events[rows])
    rows, moments = rows[again], moments[again]
    keys = [moments, lane.items[rows], lane.events[rows]]
    keys += [_codes(column.take(pa.array(rows))) for name, column in lane.columns.items() if name != "position"]
    order = np.lexsort(keys)  # stable: the first of equal rows stays the first
    same = np.ones(max(len(rows) - 1, 0), bool)
    for key in keys:
        same &= key[order[1:]] == key[order[:-1]]
    copies[rows[order[1:][same]]] = True
    return copies


def too_fast(lane: LaneEvents, max_per_minute: int) -> np.ndarray:
    """Return true [E] on all events of a user in a minute that holds more than `max_per_minute` of them: a program's.

    Minutes are those of the clock (UTC), not a sliding window: an event then shares its verdict with a fixed set of
    events, so the verdict on a day is the same whether or not later days have been appended. It needs a log with times.
    """
    if len(lane) == 0:
        return np.zeros(0, bool)
    minutes = lane.times // MINUTE_MS
    begins = np.r_[True, minutes[1:] != minutes[:-1]]
    begins[_first_events(lane)] = True
    lengths = np.diff(np.append(np.flatnonzero(begins), len(lane)))
    return np.repeat(lengths > max_per_minute, lengths)


def _first_events(lane: LaneEvents) -> np.ndarray:
    firsts = lane.offsets[:-1]
    return firsts[firsts < lane.offsets[1:]]


def _seen_twice(moments: np.ndarray, items: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Return places [*], ascending, that hold every triple found more than once, and perhaps a few others.

    Triples of one moment that agree in 25 bits of the item look alike; the caller tells them apart.
    """
    mixed = moments << 32 | (items.astype(np.int64) << 7 | events) & 0xFFFF_FFFF
    order = np.argsort(mixed, kind="stable")  # fast where few events share a moment: they are in order but for those
    same = mixed[order[1:]] == mixed[order[:-1]]
    again = np.zeros(len(mixed), bool)
    again[order[1:][same]] = True
    again[order[:-1][same]] = True
    return np.flatnonzero(again)


def _codes(column: pa.Array) -> np.ndarray:
    """Return one number per value such that equal values, and unknown values, have equal numbers."""
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False).astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
        return np.where(np.isnan(values), _NAN_BITS, values.view(np.uint32))
    return pc.dictionary_encode(column, null_encoding="encode").indices.to_numpy()
