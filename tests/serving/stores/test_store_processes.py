"""Several processes on one store: nothing is lost and nothing counted twice, also when one is killed."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

from raysys.errors import UserError
from serving.catalogue.changes import ItemChange

pytestmark = [pytest.mark.process, pytest.mark.thorough]
WRITER = """
import asyncio, json, sys
from serving.config import ServeConfig
from serving.users.state import StoredEvent
from serving.stores import NewEvent, StoreDownError, make_store

async def main(node, name, count):
    store = make_store(ServeConfig(store=node).store)
    await store.open()
    for n in range(count):
        names = [f"{name}-{n}-{m}" for m in range(2)]
        events = [NewEvent(f"u{n % 7}", one, StoredEvent(one, "watch", n)) for one in names]
        print(json.dumps([n, await store.append(events)]), flush=True)

asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


def start_writer(node, name, count):
    command = [sys.executable, "-c", WRITER, json.dumps(node), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def everything(node, using):
    async def read(store):
        return await store.read([f"u{n}" for n in range(7)])

    return Counter(event.item_id for state in using(node, read) for event in state.events)


def test_two_write_while_a_third_reads(node, of_stores):
    using, _ = of_stores
    node = {**node, "max_events": 5000}
    count = 300
    writers = [start_writer(node, name, count) for name in "ab"]

    async def watch(store):
        seen = 0
        while any(writer.poll() is None for writer in writers):
            now = sum(len(state.events) for state in await store.read([f"u{n}" for n in range(7)]))
            assert now >= seen
            seen = now

    using(node, watch)
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = everything(node, using)
    assert found == {f"{name}-{n}-{m}": 1 for name in "ab" for n in range(count) for m in range(2)}


def test_what_was_accepted_outlives_kill_9(node, of_stores):
    using, _ = of_stores
    node = {**node, "max_events": 5000}
    accepted = 0
    for _ in range(3):
        writer = start_writer(node, "k", 100_000)
        for _ in range(40):
            accepted = max(accepted, json.loads(writer.stdout.readline())[0])
        writer.send_signal(signal.SIGKILL)
        accepted = max([accepted, *(json.loads(line)[0] for line in writer.stdout if line.endswith("\n"))])
        writer.wait()
    found = everything(node, using)
    assert set(found.values()) == {1}  # the later writers began with the same ids
    whole = {f"k-{n}-{m}" for n in range(accepted + 1) for m in range(2)}
    assert whole <= set(found)
    assert len(found) - len(whole) in (0, 2)  # a batch in flight: stored as a whole, or not at all


def test_readers_do_not_wait_for_a_writer(tmp_path, of_stores):
    using, new = of_stores
    node = {"kind": "embedded", "path": str(tmp_path / "state.sqlite"), "timeout_s": 0.5}

    async def work(store):
        await store.append([new("u", "i1", 1)])
        other = sqlite3.connect(node["path"], isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert len((await store.read(["u"]))[0].events) == 1
        assert time.monotonic() - began < 0.4
        other.close()

    using(node, work)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 500), "damaged, or no SQLite file"),
        (lambda path: sqlite3.connect(path).executescript("CREATE TABLE x (y)"), "something else"),
        (lambda path: sqlite3.connect(path).executescript("PRAGMA user_version = 9"), "version 9"),
    ],
)
def test_a_file_that_is_no_store_is_refused(tmp_path, of_stores, make, told):
    using, new = of_stores
    node = {"kind": "embedded", "path": str(tmp_path / "state.sqlite")}

    async def work(store):
        await store.append([new("u", "i1", 1)])

    if "version" in told:
        using(node, work)
    make(tmp_path / "state.sqlite")
    with pytest.raises(UserError, match=told):
        using(node, work)


def test_a_file_of_the_first_version_is_brought_up_with_what_it_holds(tmp_path, of_stores):
    using, new = of_stores
    node = {"kind": "embedded", "path": str(tmp_path / "state.sqlite")}

    async def fill(store):
        await store.append([new("u", "i1", 1)])

    async def look(store):
        assert [event.item_id for event in (await store.read(["u"]))[0].events] == ["i1"]
        assert await store.put_items([ItemChange("i1", {"withdrawn": True})]) == 1
        return await store.items_since(0)

    using(node, fill)
    with sqlite3.connect(node["path"]) as connection:
        connection.executescript("DROP TABLE item_fields; PRAGMA user_version = 1")
    connection.close()
    assert using(node, look) == (1, [ItemChange("i1", {"withdrawn": True})])
