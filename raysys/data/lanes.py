"""What travels between the stations that look at whole users: the events of a lane, sorted by user and time.

A lane is a share of the users, chosen by a hash of their ids; one task holds one lane in memory.
Legend of shapes: U users, E events, I items of the lane.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class LaneEvents:
    """The events of whole users, sorted by (user, time, order in the sources)."""

    users: pa.Array  # [U] string, ascending
    offsets: np.ndarray  # [U + 1] i64: events of user u are offsets[u] to offsets[u + 1]
    item_ids: pa.Array  # [I] string, ascending
    items: np.ndarray  # [E] i32, place in item_ids
    event_names: tuple[str, ...]  # every kind of event in the dataset, ascending
    events: np.ndarray  # [E] i8, place in event_names
    times: np.ndarray  # [E] i64 ms; 0 where the log has no time
    is_history: np.ndarray  # [E] bool, true where the event becomes a token of the history
    columns: Mapping[str, pa.Array]  # [E] label.* and number.* f32; category.* and request_id string; position i64

    def __len__(self) -> int:
        """Number of events."""
        return len(self.items)

    @property
    def owner(self) -> np.ndarray:
        """Place in `users` of each event's user [E] i64."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    def keep(self, mask: np.ndarray) -> "LaneEvents":
        """Return the events where the mask [E] is true; users without one are gone, item_ids stay as they are."""
        if mask.all():
            return self
        running = np.concatenate([[0], np.cumsum(mask)])[self.offsets]
        stays = np.diff(running) > 0
        chosen = pa.array(mask)
        return dataclasses.replace(
            self,
            users=self.users.filter(pa.array(stays)),
            offsets=np.append(running[:-1][stays], running[-1]).astype(np.int64),
            items=self.items[mask],
            events=self.events[mask],
            times=self.times[mask],
            is_history=self.is_history[mask],
            columns={name: column.filter(chosen) for name, column in self.columns.items()},
        )

    def with_column(self, name: str, column: pa.Array) -> "LaneEvents":
        """Return the lane with a column added or replaced."""
        return dataclasses.replace(self, columns={**self.columns, name: column})
