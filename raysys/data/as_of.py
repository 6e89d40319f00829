"""Joins what changes over time to events: each event gets the values that held at its own moment, never later ones."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.lanes import LaneEvents
from raysys.data.schema import CATEGORY_PREFIX, NUMBER_PREFIX


def as_of(keys: np.ndarray, times: np.ndarray, table_keys: np.ndarray, table_times: np.ndarray) -> np.ndarray:
    """Return for each event the row of a table with its key and the greatest time at or before its own [E] i64.

    Where several rows of a key have that time, the last in order is taken; where no row has, -1. Both sides may be in
    any order. Keys [E] and [T] are integers, times [E] and [T] i64 in one unit.
    """
    if not len(table_keys):
        return np.full(len(keys), -1, np.int64)
    known_keys, table_key = np.unique(table_keys, return_inverse=True)
    known_times, table_time = np.unique(table_times, return_inverse=True)
    # One number for (key, time) that sorts like the pair: at most T * (T + 1), which 64 bits hold.
    width = np.int64(len(known_times) + 1)
    table = table_key * width + table_time + 1
    order = np.argsort(table, kind="stable")
    key = np.searchsorted(known_keys, keys)
    key = np.where(known_keys[np.minimum(key, len(known_keys) - 1)] == keys, key, -1)
    wanted = key * width + np.searchsorted(known_times, times, side="right")
    place = np.searchsorted(table[order], wanted, side="right") - 1
    found = order[np.maximum(place, 0)]
    return np.where((key >= 0) & (place >= 0) & (table_key[found] == key), found, -1)


def join_as_of(lane: LaneEvents, table: pa.Table, side: Literal["user", "item"]) -> LaneEvents:
    """Add the numbers and categories of a table to the events, each as it was known at the event's time.

    The table has `id`, `time` (i64 ms, a row holds from then on), `number.X` and scalar `category.X`; the lane gets
    `number.user.X`, `category.item.X`, ... Null is a value that is not known, or not yet.
    """
    ids, keys = (lane.users, lane.owner) if side == "user" else (lane.item_ids, lane.items)
    place = pc.index_in(table["id"], ids)
    own = table.filter(pc.is_valid(place))  # the table may hold every user or item, a lane has some of them
    table_keys = place.drop_null().to_numpy()
    rows = as_of(keys, lane.times, table_keys, own["time"].to_numpy())
    taken = pa.array(rows, mask=rows < 0)
    for name in own.column_names:
        for prefix in (NUMBER_PREFIX, CATEGORY_PREFIX):
            if name.startswith(prefix):
                joined = own[name].combine_chunks().take(taken)
                lane = lane.with_column(f"{prefix}{side}.{name.removeprefix(prefix)}", joined)
    return lane
