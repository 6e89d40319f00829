"""The contract of a store of live state: users' events, shared by all replicas that answer.

All replicas of an application see one store; what `append` has accepted, survives them. Of each user it keeps what was
loaded from a dataset, and apart from it what was posted since.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import Field

from raysys.component import FrozenConfig
from serving.catalogue.changes import ItemChange
from serving.users.state import StoredEvent, UserState

_SESSION = "\0session\0"  # begins the key of a session: no log has such a user


class StoreDownError(Exception):
    """The store does not answer now; what was to be written is not written, or the same call may be made again."""


class StoreClosedError(StoreDownError):
    """The store was closed here, and does not come back."""


class StoreConfig(FrozenConfig, ABC):
    """What all kinds of stores have in common."""

    max_events: int = Field(500, ge=1)
    """Newest events of a user that an answer sees; older ones of those that were posted are forgotten. Events of kinds
    that the run does not read as history have the same bound for themselves."""
    remember_ids_s: float = Field(604_800.0, ge=1)
    """Seconds for which an `event_id` is known: the same event posted again later counts as another one."""
    session_s: float = Field(2_592_000.0, ge=1)
    """Seconds after its last event when a session that never became a user is forgotten."""
    poll_items_s: float = Field(0.5, gt=0, le=60)
    """Seconds between two looks of a replica at whether items were changed."""

    @abstractmethod
    def with_place(self, root: str, project: str) -> Self:
        """Return the config with a place of the project's own where it names none."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has just happened."""

    user_id: str
    """A user, or what `session_key` returns."""
    event_id: str
    """Names the event: a second one of the same id changes nothing."""
    event: StoredEvent
    is_history: bool = True
    """Whether answers are made from events of its kind; others are kept apart, so that they push none of these out."""


@dataclass(frozen=True, slots=True)
class LoadedUser:
    """A user of a dataset."""

    user_id: str
    last: int
    """Time of the newest event: live events up to it are in the dataset too."""
    packed: bytes
    """As `pack_user` returns it."""


class Loaded(NamedTuple):
    """A dataset that was loaded whole."""

    fingerprint: str
    num_users: int
    until: int
    """Time of its newest event."""


class Store(ABC):
    """Registered in STORES. Methods are called on the event loop and never block it; all raise StoreDownError."""

    Config: ClassVar[type[StoreConfig]]

    def __init__(self, config: FrozenConfig) -> None:
        self.config: Any = config

    @abstractmethod
    async def open(self) -> None:
        """Make ready; where the store is down, it is opened when it is first answered.

        Raises:
            UserError: what is there is no store, or one of another version.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of files and connections."""

    @abstractmethod
    async def read(self, user_ids: Sequence[str], whole: bool = False) -> list[UserState]:
        """Return the state of each user, NOBODY for whom nothing is known; with `whole`, events of all kinds."""

    @abstractmethod
    async def append(self, events: Sequence[NewEvent]) -> list[bool]:
        """Add events, and tell of each whether it is new; all of one call are there when it returns, or none."""

    @abstractmethod
    async def merge(self, session: str, user_id: str) -> int:
        """Move the events of a session, by its key, to the user that it turned out to be; returns how many."""

    @abstractmethod
    async def delete(self, user_id: str) -> bool:
        """Forget a user; tells whether anything was known. Ids of events stay: as digests, until they are too old."""

    @abstractmethod
    async def load(self, users: Sequence[LoadedUser]) -> None:
        """Put in users of a dataset, in place of what an earlier load put there.

        Live events up to the newest of the dataset go, for the dataset has them; later ones stay.
        """

    @abstractmethod
    async def loaded(self) -> Loaded | None:
        """Return the dataset that was loaded whole last; None if none was, or another load has begun since."""

    @abstractmethod
    async def set_loaded(self, dataset: Loaded | None) -> None:
        """Note that a dataset has been loaded whole, and remove users of earlier ones; None when a load begins."""

    @abstractmethod
    async def size(self, user_ids: Sequence[str]) -> int:
        """Return the bytes that these users take."""

    @abstractmethod
    async def put_items(self, changes: Sequence[ItemChange]) -> int:
        """Note new values of items' fields under one new version, all or none; fields that are not named stay.

        Returns the version: larger than all before.
        """

    @abstractmethod
    async def items_since(self, version: int) -> tuple[int, list[ItemChange]]:
        """Return the newest version, 0 where there is none, and the fields that changed after a version, as they are.

        All fields where that version is later than the newest: then another store, or an emptied one, has answered.
        """

    async def count(self) -> int:
        """Return how many users the loaded dataset has."""
        loaded = await self.loaded()
        return 0 if loaded is None else loaded.num_users


def session_key(session_id: str) -> str:
    """Return the name under which a store keeps a session: never that of a user."""
    return _SESSION + session_id


def is_session(user_id: str) -> bool:
    """Tell whether a name is that of a session."""
    return user_id.startswith(_SESSION)


def digest(event_id: str) -> bytes:
    """Return what is remembered of an event id: 16 bytes, whatever clients put into it."""
    return hashlib.blake2b(event_id.encode(), digest_size=16).digest()
