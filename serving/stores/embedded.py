"""Live state in one SQLite file: for one machine, without a server; its replicas share it, and it survives restarts."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from raysys.component import FrozenConfig
from serving.state import NOBODY, Profile, StoredEvent, UserState
from serving.stores.store import LoadedUser, NewEvent, Store, StoreDownError

_T = TypeVar("_T")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  user_id TEXT NOT NULL, time INTEGER NOT NULL, number INTEGER NOT NULL, live INTEGER NOT NULL, packed BLOB NOT NULL,
  PRIMARY KEY (user_id, time, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event_ids (event_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profiles (user_id TEXT PRIMARY KEY, packed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_INSERT = """
INSERT INTO events SELECT ?1, ?2, COALESCE(MAX(number), -1) + 1, ?3, ?4 FROM events WHERE user_id = ?1 AND time = ?2
"""
_NEWEST = "SELECT packed FROM events WHERE user_id = ? ORDER BY time DESC, number DESC LIMIT ?"


class Embedded(Store):
    """SQLite in WAL mode, in a thread of its own: one writer at a time, readers never wait for it."""

    class Config(FrozenConfig):
        """Where the file is."""

        kind: Literal["embedded"] = "embedded"
        path: str | None = None
        """The file; null takes ROOT/serving/PROJECT/state.sqlite."""
        max_events: int = Field(500, ge=1)
        """Newest events of a user that an answer sees."""

    def __init__(self, config: FrozenConfig) -> None:
        super().__init__(config)
        assert self.config.path is not None, "settled by `with_places`"
        self._path, self._max_events = Path(self.config.path), self.config.max_events
        self._thread = ThreadPoolExecutor(1, "store")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, or make it."""
        await self._run(lambda connection: None)

    async def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
            self._connection = None
        self._thread.shutdown()

    async def read(self, user_ids: Sequence[str]) -> list[UserState]:
        """Return the newest events of each user, and the profile."""
        return await self._run(lambda connection: [self._state(connection, user_id) for user_id in user_ids])

    async def append(self, events: Sequence[NewEvent]) -> list[bool]:
        """Add the events whose ids are new, in one transaction."""

        def add(connection: sqlite3.Connection) -> list[bool]:
            found = []
            for one in events:
                known = connection.execute("INSERT OR IGNORE INTO event_ids VALUES (?)", (one.event_id,)).rowcount == 0
                if not known:
                    connection.execute(_INSERT, (one.user_id, one.event.time, 1, one.event.pack()))
                found.append(not known)
            return found

        return await self._run(add)

    async def merge(self, session_id: str, user_id: str) -> int:
        """Append the session's events to the user's, and forget the session."""

        def move(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT time, live, packed FROM events WHERE user_id = ? ORDER BY time, number", (session_id,)
            ).fetchall()
            connection.executemany(_INSERT, [(user_id, *row) for row in rows])
            connection.execute("DELETE FROM events WHERE user_id = ?", (session_id,))
            return len(rows)

        return await self._run(move)

    async def delete(self, user_id: str) -> bool:
        """Remove events and profile."""

        def remove(connection: sqlite3.Connection) -> bool:
            tables = ("events", "profiles")
            gone = [connection.execute(f"DELETE FROM {t} WHERE user_id = ?", (user_id,)).rowcount for t in tables]
            return any(gone)

        return await self._run(remove)

    async def load(self, users: Iterable[LoadedUser]) -> int:
        """Put in users, all in one transaction."""

        def put(connection: sqlite3.Connection) -> int:
            count = 0
            for user in users:
                connection.execute("DELETE FROM events WHERE user_id = ? AND live = 0", (user.user_id,))
                connection.executemany(_INSERT, [(user.user_id, e.time, 0, e.pack()) for e in user.events])
                connection.execute("REPLACE INTO profiles VALUES (?, ?)", (user.user_id, user.profile.pack()))
                count += 1
            return count

        return await self._run(put)

    async def loaded(self) -> str | None:
        """Return the fact that `set_loaded` noted."""
        row = await self._run(lambda c: c.execute("SELECT value FROM facts WHERE name = 'loaded'").fetchone())
        return row and row[0]

    async def set_loaded(self, fingerprint: str) -> None:
        """Note the fact."""
        await self._run(lambda c: c.execute("REPLACE INTO facts VALUES ('loaded', ?)", (fingerprint,)))

    async def count(self) -> int:
        """Return how many users have a profile."""
        return (await self._run(lambda c: c.execute("SELECT COUNT(*) FROM profiles").fetchone()))[0]

    def _state(self, connection: sqlite3.Connection, user_id: str) -> UserState:
        rows = connection.execute(_NEWEST, (user_id, self._max_events)).fetchall()
        profile = connection.execute("SELECT packed FROM profiles WHERE user_id = ?", (user_id,)).fetchone()
        if not rows and profile is None:
            return NOBODY
        events = tuple(StoredEvent.unpack(row[0]) for row in reversed(rows))
        return UserState(events, profile and Profile.unpack(profile[0]))

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do a piece of work in the store's thread, as one transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        try:
            if self._connection is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self._path, timeout=5)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                self._connection = connection
            with self._connection:
                return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            raise StoreDownError(f"{self._path}: {error}") from error
