"""A SQLite file behind threads: each line is one thread with one connection, so no work of one waits for another's."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from raysys.errors import UserError
from serving.stores.store import StoreDownError

Connection = sqlite3.Connection
_T = TypeVar("_T")
_APPLICATION = 0x72737973  # "rsys": tells our files from others'
_VERSION = 2
_TABLES = """
CREATE TABLE loaded (user_id TEXT PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE live (
  user_id TEXT NOT NULL, lane INTEGER NOT NULL, time INTEGER NOT NULL, number INTEGER NOT NULL, packed BLOB NOT NULL,
  PRIMARY KEY (user_id, lane, time, number)) WITHOUT ROWID;
CREATE TABLE event_ids (digest BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX event_ids_at ON event_ids (at);
CREATE TABLE sessions (session TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX sessions_at ON sessions (at);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_ITEM_TABLES = """
CREATE TABLE item_fields (
  item_id TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, version INTEGER NOT NULL,
  PRIMARY KEY (item_id, name)) WITHOUT ROWID;
CREATE INDEX item_fields_version ON item_fields (version)
"""


class Line:
    """Does pieces of work one after the other, each as one transaction."""

    def __init__(self, path: str, timeout_s: float, writes: bool) -> None:
        self._path, self._timeout_s = Path(path), timeout_s
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        self._thread = ThreadPoolExecutor(1, "store-writes" if writes else "store-reads")
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            UserError: the file is no store, is damaged, or of another version.
            StoreDownError: it cannot be opened now.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connected)

    async def close(self) -> None:
        """Disconnect, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """Do a piece of work.

        Raises:
            StoreDownError: it was not done.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[Connection], Any]) -> Any:
        try:
            connection = self._connected()
            connection.execute(self._begin)
            found = work(connection)
            connection.execute("COMMIT")
        except UserError as error:
            raise StoreDownError(str(error)) from error
        except sqlite3.Error as error:
            self._disconnect()  # which undoes what was begun
            raise StoreDownError(f"{self._path}: {error}") from error
        return found

    def _connected(self) -> Connection:
        if self._connection is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = _connect(self._path, self._timeout_s)
            except (sqlite3.OperationalError, OSError) as error:
                raise StoreDownError(f"{self._path}: {error}") from error
            except sqlite3.DatabaseError as error:
                raise UserError(_refusal(self._path, f"damaged, or no SQLite file ({error})")) from error
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _connect(path: Path, timeout_s: float) -> Connection:
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    with contextlib.ExitStack() as failed:
        failed.callback(connection.close)
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a commit outlives the process, though not a power cut
        connection.execute("PRAGMA secure_delete = ON")
        _settle_tables(connection, path)
        failed.pop_all()
    return connection


def _settle_tables(connection: Connection, path: Path) -> None:
    """Make the tables in a new file; refuse a file that is not ours."""
    if not _num_tables(connection):
        connection.execute("BEGIN IMMEDIATE")
        if not _num_tables(connection):  # nobody else has made them meanwhile
            for statement in (_TABLES + _ITEM_TABLES).split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application != _APPLICATION:
        raise UserError(_refusal(path, "a SQLite file of something else"))
    if version == 1:
        version = _add_items(connection)
    if version != _VERSION:
        raise UserError(_refusal(path, f"of version {version}, where this raysys reads {_VERSION}"))


def _add_items(connection: Connection) -> int:
    """Bring a file of version 1, which knew no items, up to 2."""
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 1:  # nobody else has done so meanwhile
        for statement in _ITEM_TABLES.split(";"):
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 2")
    connection.execute("COMMIT")
    return 2


def _num_tables(connection: Connection) -> int:
    found: int = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]
    return found


def _refusal(path: Path, what: str) -> str:
    return f"store.path: {path} is {what}; move it away, or give another path (`raysys users load` fills a new file)"
