"""What is known of a user when a question comes: the newest events, and what the logs told of the user.

Stored by names, not by indices: the same state serves runs with other vocabularies.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import from_json, to_json

Value = float | str | tuple[str, ...]
"""Of a column: a number, a category, or the values of a category with several."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event of a user."""

    item_id: str
    event: str
    time: int
    """Milliseconds since 1970-01-01 UTC; 0 where the log has no times."""
    labels: Mapping[str, float] | None = None
    context: Mapping[str, float | str] | None = None

    def pack(self) -> bytes:
        """Return the event as JSON: [item_id, event, time], then labels and context where there are some."""
        parts: list[object] = [self.item_id, self.event, self.time]
        if self.labels or self.context:
            parts.append(self.labels or None)
        if self.context:
            parts.append(self.context)
        return to_json(parts)

    @staticmethod
    def unpack(packed: bytes) -> "StoredEvent":
        """Read what `pack` wrote."""
        return StoredEvent(*from_json(packed))


@dataclass(frozen=True, slots=True)
class Profile:
    """What the dataset knows of a user beside events."""

    row: int
    """Row of the dataset, which models with a vector per user look up; -1 where there is none."""
    fingerprint: str
    """Of the dataset that the row belongs to."""
    features: Mapping[str, Value]

    def pack(self) -> bytes:
        """Return the profile as JSON."""
        return to_json([self.row, self.fingerprint, self.features])

    @staticmethod
    def unpack(packed: bytes) -> "Profile":
        """Read what `pack` wrote."""
        return Profile(*from_json(packed))


@dataclass(frozen=True, slots=True)
class UserState:
    """A user as a question sees it."""

    events: tuple[StoredEvent, ...] = ()
    """Oldest first; by time, equal times as they arrived."""
    profile: Profile | None = None


NOBODY = UserState()
