"""Lanes from plain Python rows, and back, so that a test can say in words what goes in and what comes out."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.data.lanes import LaneEvents
from raysys.data.schema import CATEGORY_PREFIX, REQUEST_ID

Row = tuple[Any, ...]  # (user, item, event, time in ms) or (user, item, event, time in ms, {column: value})


def make_lane(
    rows: Iterable[Row], history: Collection[str] | None = None, event_names: Collection[str] = ()
) -> LaneEvents:
    """Return the rows as a lane, sorted by (user, time, place in the rows).

    `history` names the events that become tokens, None for all. `event_names` are kinds of events that exist besides
    those of the rows. A column that any row has is null where a row lacks it; `position` is the place in the rows.
    """
    numbered = [(*(*row, {})[:5], place) for place, row in enumerate(rows)]
    numbered.sort(key=lambda row: (row[0], row[3], row[5]))
    users = sorted({row[0] for row in numbered})
    items = sorted({row[1] for row in numbered})
    names = tuple(sorted({row[2] for row in numbered} | set(event_names)))
    counts = Counter(row[0] for row in numbered)
    item_place = {item: place for place, item in enumerate(items)}
    columns = {"position": pa.array([row[5] for row in numbered], pa.int64())}
    for name in dict.fromkeys(name for row in numbered for name in row[4]):
        kind = pa.string() if name == REQUEST_ID or name.startswith(CATEGORY_PREFIX) else pa.float32()
        columns[name] = pa.array([row[4].get(name) for row in numbered], kind)
    return LaneEvents(
        users=pa.array(users, pa.string()),
        offsets=np.concatenate([[0], np.cumsum([counts[user] for user in users])]).astype(np.int64),
        item_ids=pa.array(items, pa.string()),
        items=np.array([item_place[row[1]] for row in numbered], np.int32),
        event_names=names,
        events=np.array([names.index(row[2]) for row in numbered], np.int8),
        times=np.array([row[3] for row in numbered], np.int64),
        is_history=np.array([history is None or row[2] in history for row in numbered], bool),
        columns=columns,
    )


def rows_of(lane: LaneEvents) -> list[Row]:
    """Return (user, item, event, time, {column: value}) per event in the lane's order; `position` is left out."""
    users, items = lane.users.to_pylist(), lane.item_ids.to_pylist()
    columns = {name: column.to_pylist() for name, column in lane.columns.items() if name != "position"}
    return [
        (
            users[owner],
            items[lane.items[place]],
            lane.event_names[lane.events[place]],
            int(lane.times[place]),
            {name: values[place] for name, values in columns.items()},
        )
        for place, owner in enumerate(lane.owner)
    ]
