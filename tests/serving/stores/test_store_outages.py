"""A store that dies: answers go on without it and come back by themselves; events are stored or refused, never lost."""

import asyncio
import signal
import time

import pytest
from starlette.testclient import TestClient

from raysys.errors import UserError
from serving.http.gateway import Gateway
from serving.stores import StoreDownError

pytestmark = [pytest.mark.process, pytest.mark.thorough]


@pytest.fixture(scope="module")
def server(make_redis):
    return make_redis("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def node(server):
    server.ask("FLUSHALL")
    return {"kind": "redis", "url": server.url, "prefix": "x:", "timeout_s": 2, "connect_timeout_s": 2}


async def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it does not recover"
        await asyncio.sleep(0.05)


def test_a_dead_store_fails_at_once_and_comes_back(server, node, of_stores):
    using, new = of_stores

    async def work(store):
        await store.append([new("u", "i1", 1)])
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreDownError):
                await store.read(["u"])  # this one waits for the timeout
            began = time.monotonic()
            for _ in range(200):
                with pytest.raises(StoreDownError):
                    await store.read(["u"])
            assert time.monotonic() - began < 0.5
        finally:
            server.process.send_signal(signal.SIGCONT)

        async def is_back():
            try:
                return len((await store.read(["u"]))[0].events) == 1
            except StoreDownError:
                return False

        await until(is_back)

    using(node, work, timeout_s=0.5)


@pytest.mark.parametrize(
    ("break_it", "mend_it", "told"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "OOM|memory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read only"),
    ],
)
def test_a_store_that_takes_no_writes_still_answers(server, node, of_stores, break_it, mend_it, told):
    using, new = of_stores

    async def work(store):
        await store.append([new("u", "i1", 1)])
        server.ask(*break_it)
        try:
            with pytest.raises(StoreDownError, match=told):
                await store.append([new("u", "i2", 2, "a")])
            assert len((await store.read(["u"]))[0].events) == 1
        finally:
            server.ask(*mend_it)
        await asyncio.sleep(1.1)
        assert await store.append([new("u", "i2", 2, "a")]) == [True]

    using(node, work)


def test_passwords_are_not_told(make_redis, of_stores, monkeypatch):
    using, new = of_stores
    server = make_redis("--requirepass", "the-secret")

    async def work(store):
        return await store.append([new("u", "i1", 1)])

    monkeypatch.setenv("STATE_URL", f"redis://:wrong-secret@127.0.0.1:{server.port}/0")
    node = {"kind": "redis", "url": "env STATE_URL", "prefix": "x:", "timeout_s": 2}
    with pytest.raises(StoreDownError) as error:
        using(node, work)
    assert "secret" not in str(error.value)
    monkeypatch.setenv("STATE_URL", f"redis://:the-secret@127.0.0.1:{server.port}/0")
    assert using(node, work) == [True]
    monkeypatch.delenv("STATE_URL")
    with pytest.raises(UserError, match=r"\$STATE_URL is not set"):
        using(node, work)
    monkeypatch.setenv("STATE_URL", "http://:the-secret@x")
    with pytest.raises(UserError, match="not a URL") as refused:
        using(node, work)
    assert "the-secret" not in str(refused.value)


def test_answers_go_on_and_every_event_is_stored_or_refused(server, node, tiny_run, serve, tmp_path, of_stores):
    using, _ = of_stores
    service = serve(tiny_run, tmp_path, store=node)
    with TestClient(Gateway(service), raise_server_exceptions=False) as client:
        accepted, refused = [], []

        def post(number):
            event = {"user_id": "new", "item_id": f"i{number}", "event_id": f"e{number}"}
            answer = client.post("/v1/events", json={"events": [event]})
            (accepted if answer.status_code == 200 else refused).append(number)
            if answer.status_code != 200:
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_down")
                assert answer.headers["retry-after"] == "1"

        def recommend(**body):
            answer = client.post("/v1/recommend", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()["source"], answer.json()["degraded"]

        for number in range(10):
            post(number)
        assert recommend(user_id="new") == ("user", [])
        server.stop()
        for number in range(10, 20):
            post(number)
            assert recommend(user_id="new", history=["i3"]) == ("history", ["store"])
            assert recommend(user_id="new") == ("popularity", ["store"])
        assert client.get("/healthz").json()["users"] is None
        assert "raysys_degraded_total 20.0" in client.get("/metrics").text
        assert client.get("/v1/users/new").status_code == 503
        assert client.delete("/v1/users/new").status_code == 503
        server.start()
        deadline = time.monotonic() + 20
        while recommend(user_id="new") != ("user", []):
            assert time.monotonic() < deadline
        again, refused[:] = [*range(20, 30), *refused], []
        while again:  # clients try again what was refused
            assert time.monotonic() < deadline
            for number in again:
                post(number)
            again, refused[:] = list(refused), []
            time.sleep(0.1)
        assert accepted[:10] == list(range(10))
    found = using(node, lambda store: store.read(["new"]))[0].events
    assert sorted(event.item_id for event in found) == sorted({f"i{number}" for number in accepted})
    assert set(accepted) == set(range(30))
