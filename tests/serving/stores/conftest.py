"""Both kinds of stores, the one of Redis in a real server of its own."""

import asyncio
import shutil
import socket
import subprocess
import time
import uuid

import pytest
import redis

from serving.config import ServeConfig
from serving.stores import NewEvent, make_store
from serving.users.state import StoredEvent


class RedisServer:
    """A redis-server process that can be stopped and started again with what it holds."""

    def __init__(self, folder, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", *options]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self.ask("PING")
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                pass
            time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    def ask(self, *command, password=None):
        with redis.Redis(port=self.port, password=password) as client:
            return client.execute_command(*command)

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def make_redis(tmp_path_factory):
    """A function that starts a server; all end with the tests."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server")
    started = []

    def make(*options):
        server = RedisServer(tmp_path_factory.mktemp("redis"), *options)
        started.append(server)
        server.start()
        return server

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(make_redis):
    return make_redis("--appendonly", "no")


@pytest.fixture(params=["embedded", "redis"])
def node(request, tmp_path):
    """The config of an empty store of each kind."""
    if request.param == "embedded":
        return {"kind": "embedded", "path": str(tmp_path / "state.sqlite")}
    url = request.getfixturevalue("redis_server").url
    return {"kind": "redis", "url": url, "prefix": f"{uuid.uuid4().hex}:", "timeout_s": 5, "connect_timeout_s": 5}


def using(node, work, **settings):
    """Open the store, do `work(store)`, close it."""

    async def run():
        store = make_store(ServeConfig(store={**node, **settings}).store)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def new(user_id, item_id, time=0, event_id=None, is_history=True, **more):
    event = StoredEvent(item_id, "watch" if is_history else "impression", time, **more)
    return NewEvent(user_id, event_id or uuid.uuid4().hex, event, is_history)


@pytest.fixture(scope="session")
def of_stores():
    """What the tests of this folder share: `using` and `new`."""
    return using, new
