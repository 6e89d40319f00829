"""The contract of a store of live state: users' events, shared by all replicas that answer.

All replicas of an application see one store; what `append` has accepted, survives them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from raysys.component import FrozenConfig
from serving.state import Profile, StoredEvent, UserState


class StoreDownError(Exception):
    """The store does not answer now; what was to be written is not written."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has just happened."""

    user_id: str
    event_id: str
    """Names the event: a second one of the same id changes nothing."""
    event: StoredEvent


@dataclass(frozen=True, slots=True)
class LoadedUser:
    """A user of a dataset."""

    user_id: str
    events: Sequence[StoredEvent]
    profile: Profile


class Store(ABC):
    """Registered in STORES. Methods are called on the event loop and never block it; all raise StoreDownError."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig) -> None:
        self.config: Any = config

    @abstractmethod
    async def open(self) -> None:
        """Make ready; where the store is down, it is opened when it is first answered."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of files and connections."""

    @abstractmethod
    async def read(self, user_ids: Sequence[str]) -> list[UserState]:
        """Return the state of each user, NOBODY for whom nothing is known."""

    @abstractmethod
    async def append(self, events: Sequence[NewEvent]) -> list[bool]:
        """Add events, and tell of each whether it is new; all of one call are there when it returns, or none."""

    @abstractmethod
    async def merge(self, session_id: str, user_id: str) -> int:
        """Move the events of a session to the user that it turned out to be; returns how many."""

    @abstractmethod
    async def delete(self, user_id: str) -> bool:
        """Forget a user; tells whether anything was known."""

    @abstractmethod
    async def load(self, users: Iterable[LoadedUser]) -> int:
        """Put in users of a dataset, in place of what an earlier load put there; live events stay. Returns how many."""

    @abstractmethod
    async def loaded(self) -> str | None:
        """Return the fingerprint of the dataset that was loaded whole last; None if none was."""

    @abstractmethod
    async def set_loaded(self, fingerprint: str) -> None:
        """Note that a dataset has been loaded whole."""

    @abstractmethod
    async def count(self) -> int:
        """Return about how many users are known."""
