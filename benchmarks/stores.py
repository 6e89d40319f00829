"""What live state costs: seconds and bytes a user to load, microseconds to read and to append, in SQLite and in Redis.

Beside it bare loops of sqlite3 and redis-py with one value per event, which know no ids, times, kinds or profiles.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
from pydantic_core import from_json, to_json

EVENTS = 50
USERS, QUICK_USERS = 100_000, 10_000
CALLS, QUICK_CALLS = 5000, 1000
_BATCH = 500


def main() -> None:
    options = _options()
    about = peers.machine()
    users, calls = (QUICK_USERS, QUICK_CALLS) if options.quick else (USERS, CALLS)
    with tempfile.TemporaryDirectory() as folder, _redis(Path(folder)) as port:
        dataset = _dataset(Path(folder), users)
        rows = [row for kind in ("embedded", "redis") for row in _measured(kind, Path(folder), port, dataset, calls)]
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _measured(kind: str, folder: Path, port: int, dataset: Any, calls: int) -> list[dict[str, Any]]:
    bare: Any = _BareFile(folder / "bare.sqlite") if kind == "embedded" else _BareServer(port)
    ours, theirs = asyncio.run(_ours(kind, folder, port, dataset, calls)), asyncio.run(_theirs(bare, dataset, calls))
    peer = "sqlite3" if kind == "embedded" else "redis-py"
    return [
        peers.row(f"{kind}: {name}", ours[name], theirs[name], peer, unit, lower_is_better=True)
        for name, unit in (
            ("load a million users", "seconds"),
            ("load a million users, CPU of the client", "seconds"),
            ("bytes of a user", "bytes"),
            ("read, p50", "us"),
            ("read, p99", "us"),
            ("append, p50", "us"),
            ("append, p99", "us"),
        )
    ]


async def _ours(kind: str, folder: Path, port: int, dataset: Any, calls: int) -> dict[str, float]:
    from serving.config import ServeConfig
    from serving.stores import NewEvent, make_store
    from serving.users.seeding import load_users
    from serving.users.state import StoredEvent

    path = folder / "state.sqlite"
    node: dict[str, Any] = {"kind": "embedded", "path": str(path)}
    if kind == "redis":
        node = {"kind": "redis", "url": f"redis://127.0.0.1:{port}/0", "prefix": "raysys:b:", "timeout_s": 5}
    store = make_store(ServeConfig(store=node).store)
    await store.open()
    before = _memory(port)
    began = time.process_time()
    loading = await load_users(dataset, store)
    cpu = time.process_time() - began
    await store.close()
    size = _file_bytes(path) if kind == "embedded" else _memory(port) - before
    store = make_store(ServeConfig(store=node).store)
    await store.open()
    names = _names(dataset, calls)
    now = time.time_ns() // 1_000_000

    async def read(name: str) -> None:
        (state,) = await store.read([name])
        assert len(state.events) > 1

    async def append(name: str) -> None:
        event = StoredEvent("i1", "view", now, {"rating": 4.0})
        assert await store.append([NewEvent(name, uuid.uuid4().hex, event)]) == [True]

    found = await _timed(names, read, append)
    await store.close()
    return {
        "load a million users": loading.seconds / loading.users * 1e6,
        "load a million users, CPU of the client": cpu / loading.users * 1e6,
        "bytes of a user": size / loading.users,
        **found,
    }


async def _theirs(bare: Any, dataset: Any, calls: int) -> dict[str, float]:
    """Measure the same in a bare loop: every event a value of its own."""
    from raysys.data.reader import ShardReader

    reader, users = ShardReader(dataset), dataset.manifest.num_users
    before, began, began_cpu = bare.bytes(), time.perf_counter(), time.process_time()
    for first in range(0, users, _BATCH):
        rows = np.arange(first, min(first + _BATCH, users))
        found, names = reader.rows(rows), reader.user_ids(rows).to_pylist()
        items = ["" if item < 0 else str(item) for item in found.items.tolist()]
        packed = [
            to_json([item, "view", at, {"rating": rating}])
            for item, at, rating in zip(items, found.times.tolist(), found.labels["rating"].tolist(), strict=True)
        ]
        await bare.load([(n, packed[found.offsets[p] : found.offsets[p + 1]]) for p, n in enumerate(names)])
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    size = bare.bytes() - before
    timed = await _timed(_names(dataset, calls), bare.read, bare.append)
    await bare.close()
    loads = {"load a million users": seconds, "load a million users, CPU of the client": cpu}
    return {name: value / users * 1e6 for name, value in loads.items()} | {"bytes of a user": size / users} | timed


async def _timed(
    names: list[str], read: Callable[[str], Awaitable[None]], append: Callable[[str], Awaitable[None]]
) -> dict[str, float]:
    found = {}
    for label, call in (("read", read), ("append", append)):
        taken = []
        for name in names:
            began = time.perf_counter()
            await call(name)
            taken.append(time.perf_counter() - began)
        found |= {f"{label}, p{q}": float(np.percentile(taken[len(taken) // 10 :], q)) * 1e6 for q in (50, 99)}
    return found


class _BareFile:
    def __init__(self, path: Path) -> None:
        self._path, self._connection = path, sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("CREATE TABLE events (user TEXT, packed BLOB)")
        self._connection.execute("CREATE INDEX users ON events (user)")

    async def load(self, users: list[tuple[str, list[bytes]]]) -> None:
        self._connection.execute("BEGIN")
        rows = [(user, one) for user, events in users for one in events]
        self._connection.executemany("INSERT INTO events VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    async def read(self, user: str) -> None:
        query = "SELECT packed FROM events WHERE user = ? ORDER BY rowid DESC LIMIT 500"
        assert [from_json(row[0]) for row in self._connection.execute(query, (user,))]

    async def append(self, user: str) -> None:
        self._connection.execute(
            "INSERT INTO events VALUES (?, ?)", (user, to_json(["i1", "view", 1, {"rating": 4.0}]))
        )

    def bytes(self) -> int:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return _file_bytes(self._path)

    async def close(self) -> None:
        self._connection.close()


class _BareServer:
    def __init__(self, port: int) -> None:
        from redis.asyncio import Redis

        self._port, self._client = port, Redis(port=port, db=1)

    async def load(self, users: list[tuple[str, list[bytes]]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for user, events in users:
            pipeline.rpush(user, *events)
        await pipeline.execute()

    async def read(self, user: str) -> None:
        assert [from_json(one) for one in await self._client.lrange(user, -500, -1)]

    async def append(self, user: str) -> None:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.rpush(user, to_json(["i1", "view", 1, {"rating": 4.0}]))
        pipeline.ltrim(user, -500, -1)
        await pipeline.execute()

    def bytes(self) -> int:
        return _memory(self._port)

    async def close(self) -> None:
        await self._client.aclose()


def _names(dataset: Any, calls: int) -> list[str]:
    from raysys.data.reader import ShardReader

    rows = np.random.default_rng(0).integers(0, dataset.manifest.num_users, calls)
    return ShardReader(dataset).user_ids(rows).to_pylist()


def _dataset(folder: Path, users: int) -> Any:
    from raysys.configfile import build
    from raysys.data.config import IngestConfig
    from raysys.data.ingest import ingest
    from raysys.data.line import in_process

    source = {"format": "synthetic", "num_users": users, "num_items": 5000, "events_per_user": EVENTS}
    node = {"project": "stores", "root": str(folder), **source}
    return ingest(build(IngestConfig, node, "stores"), folder / "dataset", each=in_process)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[int]:
    import redis

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(redis.ConnectionError):
                redis.Redis(port=port).ping()
                break
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


def _memory(port: int) -> int:
    import redis

    return redis.Redis(port=port).info("memory")["used_memory"]


def _file_bytes(path: Path) -> int:
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}*"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_USERS:,} users instead of {USERS:,}")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
