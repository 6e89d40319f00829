"""What is known of a user when a question comes: the newest events, and what the logs told of the user.

Stored by names, not by indices: the same state serves runs with other vocabularies.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic_core import from_json, to_json

Value = float | str | tuple[str, ...]
"""Of a column: a number, a category, or the values of a category with several."""
TAG = 16
"""Characters of a dataset's fingerprint that tell it from others here."""


class StoredEvent(NamedTuple):  # made a hundred times for an answer: a dataclass takes three times as long
    """One event of a user."""

    item_id: str
    event: str
    time: int
    """Milliseconds since 1970-01-01 UTC; 0 where the log has no times."""
    labels: Mapping[str, float] | None = None
    context: Mapping[str, float | str] | None = None
    request_id: str | None = None
    """Of the answer that the event follows."""
    slot: int | None = None
    """Place of the item in that answer, from 0."""

    def pack(self) -> bytes:
        """Return the event as a JSON list of its fields in their order, without the empty ones at the end."""
        parts = list(self)
        while parts[-1] is None:
            parts.pop()
        return to_json(parts)

    @staticmethod
    def unpack(packed: bytes) -> "StoredEvent":
        """Read what `pack` wrote."""
        return StoredEvent(*from_json(packed))


@dataclass(frozen=True, slots=True)
class Profile:
    """What the dataset knows of a user beside events."""

    row: int
    """Row of the dataset, which models with a vector per user look up."""
    tag: str
    """First TAG characters of the fingerprint of the dataset that the row belongs to."""
    features: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class UserState:
    """A user as a question sees it."""

    events: tuple[StoredEvent, ...] = ()
    """Oldest first; by time, equal times as they arrived."""
    profile: Profile | None = None


NOBODY = UserState()


def pack_user(fingerprint: str, row: int, features: str, events: str) -> bytes:
    """Return what is kept of a user of a dataset: the tag, then compressed JSON.

    The features are a JSON object; the events are packed ones, separated by commas.
    """
    return fingerprint[:TAG].encode() + zlib.compress(f"[{row},{features},[{events}]]".encode(), 1)


def joined(loaded: bytes | None, live: Sequence[bytes], most: int) -> UserState:
    """Return the state of a user from what `pack_user` wrote and from packed live events, the `most` newest of all."""
    if loaded is None and not live:
        return NOBODY
    events, profile = [], None
    if loaded is not None:
        row, features, earlier = from_json(zlib.decompress(loaded[TAG:]))
        events, profile = [StoredEvent(*one) for one in earlier], Profile(row, loaded[:TAG].decode(), features)
    if live:
        events += [StoredEvent.unpack(one) for one in live]
        events.sort(key=_time)  # stable: equal times as they arrived
    return UserState(tuple(events[-most:]), profile)


def _time(event: StoredEvent) -> int:
    return event.time
