"""Live state in one SQLite file: for one machine, without a server; its replicas share it, and it survives restarts."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field
from pydantic_core import from_json, to_json

from raysys.component import FrozenConfig
from serving.catalogue.changes import ItemChange, by_item
from serving.stores.sqlite import Connection, Line
from serving.stores.store import Loaded, LoadedUser, NewEvent, Store, StoreConfig, StoreDownError, digest, is_session
from serving.users.state import TAG, UserState, joined

_HISTORY, _OTHER = 0, 1
_INSERT = """
INSERT INTO live SELECT ?1, ?2, ?3, COALESCE(MAX(number), -1) + 1, ?4 FROM live
WHERE user_id = ?1 AND lane = ?2 AND time = ?3
"""
_TRIM = """
DELETE FROM live WHERE user_id = ?1 AND lane = ?2 AND (time, number) <=
(SELECT time, number FROM live WHERE user_id = ?1 AND lane = ?2 ORDER BY time DESC, number DESC LIMIT 1 OFFSET ?3)
"""
_NEWEST = "SELECT packed FROM live WHERE user_id = ? AND lane = ? ORDER BY time DESC, number DESC LIMIT ?"
_NEWEST_ITEMS = "SELECT COALESCE(MAX(version), 0) FROM item_fields"
_FORGOTTEN = 200  # what is too old goes in such portions, one with every write


class Embedded(Store):
    """SQLite in WAL mode. Reads and writes have a thread and a connection each: no read waits for a writer."""

    class Config(StoreConfig):
        """Where the file is."""

        kind: Literal["embedded"] = "embedded"
        path: str | None = None
        """The file, on a disk of this machine; null takes ROOT/serving/PROJECT/state.sqlite."""
        timeout_s: float = Field(5.0, gt=0)
        """Seconds that a write waits while another process writes."""

        def with_place(self, root: str, project: str) -> Self:
            """Return the config with a path."""
            if self.path is not None:
                return self
            return self.model_copy(update={"path": f"{Path(root).absolute()}/serving/{project}/state.sqlite"})

    def __init__(self, config: FrozenConfig) -> None:
        super().__init__(config)
        assert self.config.path is not None, "settled by `with_places`"
        self._reading = Line(self.config.path, self.config.timeout_s, writes=False)
        self._writing = Line(self.config.path, self.config.timeout_s, writes=True)

    async def open(self) -> None:
        """Open the file, or make it."""
        try:
            await self._writing.open()
            await self._reading.open()
        except StoreDownError:
            return

    async def close(self) -> None:
        """Close the file."""
        await asyncio.gather(self._reading.close(), self._writing.close())

    async def read(self, user_ids: Sequence[str], whole: bool = False) -> list[UserState]:
        """Return what was loaded of each user and posted since."""
        lanes = (_HISTORY, _OTHER) if whole else (_HISTORY,)
        return await self._reading.run(lambda c: [self._state(c, user_id, lanes) for user_id in user_ids])

    async def append(self, events: Sequence[NewEvent]) -> list[bool]:
        """Add the events whose ids are new, in one transaction."""
        return await self._writing.run(lambda c: self._append(c, events))

    async def merge(self, session: str, user_id: str) -> int:
        """Move the events; where a session has none, nothing is written."""
        there = "SELECT EXISTS (SELECT 1 FROM live WHERE user_id = ?)"
        if not (await self._reading.run(lambda c: c.execute(there, (session,)).fetchone()))[0]:
            return 0

        def move(connection: Connection) -> int:
            rows = connection.execute(
                "SELECT lane, time, packed FROM live WHERE user_id = ? ORDER BY time, number", (session,)
            ).fetchall()
            connection.executemany(_INSERT, [(user_id, *row) for row in rows])
            connection.execute("DELETE FROM live WHERE user_id = ?", (session,))
            connection.execute("DELETE FROM sessions WHERE session = ?", (session,))
            self._trim(connection, {(user_id, row[0]) for row in rows})
            return len(rows)

        return await self._writing.run(move)

    async def delete(self, user_id: str) -> bool:
        """Remove what was loaded and what was posted; the file keeps no traces in freed pages."""

        def remove(connection: Connection) -> bool:
            tables = ("live", "loaded")
            gone = [connection.execute(f"DELETE FROM {t} WHERE user_id = ?", (user_id,)).rowcount for t in tables]
            return any(gone)

        return await self._writing.run(remove)

    async def load(self, users: Sequence[LoadedUser]) -> None:
        """Put in users, in one transaction."""

        def put(connection: Connection) -> None:
            connection.executemany("REPLACE INTO loaded VALUES (?, ?)", [(one.user_id, one.packed) for one in users])
            connection.executemany(
                "DELETE FROM live WHERE user_id = ? AND lane IN (0, 1) AND time <= ?",
                [(one.user_id, one.last) for one in users],
            )

        await self._writing.run(put)

    async def loaded(self) -> Loaded | None:
        """Return the fact that `set_loaded` noted."""
        query = "SELECT value FROM facts WHERE name = 'loaded'"
        row = await self._reading.run(lambda c: c.execute(query).fetchone())
        return row and Loaded(*from_json(row[0]))

    async def set_loaded(self, dataset: Loaded | None) -> None:
        """Note the fact."""

        def note(connection: Connection) -> None:
            connection.execute("DELETE FROM facts WHERE name = 'loaded'")
            if dataset is not None:
                tag = dataset.fingerprint[:TAG].encode()
                connection.execute(f"DELETE FROM loaded WHERE substr(packed, 1, {TAG}) <> ?", (tag,))
                connection.execute("INSERT INTO facts VALUES ('loaded', ?)", (to_json(dataset).decode(),))

        await self._writing.run(note)

    async def size(self, user_ids: Sequence[str]) -> int:
        """Return the bytes of keys and values; what SQLite adds is a quarter of it."""
        query = "SELECT TOTAL(length(CAST(user_id AS BLOB)) + length(packed)) FROM {} WHERE user_id = ?"

        def add_up(connection: Connection) -> float:
            return sum(
                connection.execute(query.format(table), (user_id,)).fetchone()[0]
                for user_id in user_ids
                for table in ("loaded", "live")
            )

        return int(await self._reading.run(add_up))

    async def put_items(self, changes: Sequence[ItemChange]) -> int:
        """Note changes of items, in one transaction."""

        def put(connection: Connection) -> int:
            version: int = connection.execute(_NEWEST_ITEMS).fetchone()[0] + 1
            rows = [
                (one.item_id, name, to_json(value).decode(), version)
                for one in changes
                for name, value in one.fields.items()
            ]
            connection.executemany("REPLACE INTO item_fields VALUES (?, ?, ?, ?)", rows)
            return version

        return await self._writing.run(put)

    async def items_since(self, version: int) -> tuple[int, list[ItemChange]]:
        """Return what changed; mostly nothing, which is one look into an index."""
        query = "SELECT item_id, name, value FROM item_fields WHERE version > ? ORDER BY version, item_id"

        def find(connection: Connection) -> tuple[int, list[ItemChange]]:
            newest: int = connection.execute(_NEWEST_ITEMS).fetchone()[0]
            if newest == version:
                return newest, []
            rows = connection.execute(query, (version if version < newest else 0,)).fetchall()
            return newest, by_item((item_id, name, from_json(value)) for item_id, name, value in rows)

        return await self._reading.run(find)

    def _state(self, connection: Connection, user_id: str, lanes: Sequence[int]) -> UserState:
        most = self.config.max_events
        loaded = connection.execute("SELECT packed FROM loaded WHERE user_id = ?", (user_id,)).fetchone()
        rows = [row for lane in lanes for row in connection.execute(_NEWEST, (user_id, lane, most)).fetchall()[::-1]]
        return joined(loaded and loaded[0], [row[0] for row in rows], most * len(lanes))

    def _append(self, connection: Connection, events: Sequence[NewEvent]) -> list[bool]:
        now = int(time.time())
        self._forget(connection, now)
        remember = "INSERT OR IGNORE INTO event_ids VALUES (?, ?)"
        is_new = [connection.execute(remember, (digest(one.event_id), now)).rowcount > 0 for one in events]
        added = [one for one, new in zip(events, is_new, strict=True) if new]
        lanes = [_HISTORY if one.is_history else _OTHER for one in added]
        rows = [(one.user_id, lane, one.event.time, one.event.pack()) for one, lane in zip(added, lanes, strict=True)]
        connection.executemany(_INSERT, rows)
        self._trim(connection, {(user_id, lane) for user_id, lane, *_ in rows})
        sessions = {one.user_id for one in added if is_session(one.user_id)}
        connection.executemany("REPLACE INTO sessions VALUES (?, ?)", [(session, now) for session in sessions])
        return is_new

    def _trim(self, connection: Connection, touched: set[tuple[str, int]]) -> None:
        connection.executemany(_TRIM, [(user_id, lane, self.config.max_events) for user_id, lane in touched])

    def _forget(self, connection: Connection, now: int) -> None:
        connection.execute(
            "DELETE FROM event_ids WHERE digest IN (SELECT digest FROM event_ids WHERE at < ? LIMIT ?)",
            (now - self.config.remember_ids_s, _FORGOTTEN),
        )
        old = connection.execute(
            "SELECT session FROM sessions WHERE at < ? LIMIT ?", (now - self.config.session_s, _FORGOTTEN)
        ).fetchall()
        connection.executemany("DELETE FROM live WHERE user_id = ?", old)
        connection.executemany("DELETE FROM sessions WHERE session = ?", old)
