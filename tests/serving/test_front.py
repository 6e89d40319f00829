"""The front before the replicas: HAProxy itself, started by our launcher with a config such as Ray Serve writes."""

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from serving import frontend
from serving.config import ServeConfig

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux"),
]
CONFIG = """
global
    maxconn 1000
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend http_frontend
    bind 127.0.0.1:{front}
    use_backend http-recommender
backend default_backend
    http-request return status 404
backend http-recommender
    server one 127.0.0.1:{replica}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SCORERS = {"scorer": {"autoscaling": {"max_replicas": 2}}}


@pytest.fixture(params=[({}, 5, 3), (SCORERS, 11, 9)], ids=["model", "scorers"])
def front(request, tmp_path, monkeypatch):
    """Ports of a front and its one replica, how many requests that takes at a time, and how many once it was full."""
    settings, *most = request.param
    port, replica = free_port(), free_port()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    monkeypatch.setattr(os, "environ", variables)
    frontend.prepare(ServeConfig(port=port, limits={"waiting": 3, "batch": 2}, **settings))
    launcher = variables["RAY_SERVE_HAPROXY_BINARY_PATH"]
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIG.format(front=port, replica=replica))
    subprocess.run([launcher, "-c", "-f", str(file)], check=True, capture_output=True)
    with subprocess.Popen([launcher, "-f", str(file)], stderr=subprocess.DEVNULL) as process:
        yield port, replica, *most
        process.send_signal(signal.SIGKILL)


def test_what_replicas_cannot_take_is_refused_before_it_reaches_them(front):
    port, replica, most, _ = front
    asked, go_on = [], asyncio.Event()

    async def answer(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def scenario():
        async with await asyncio.start_server(answer, "127.0.0.1", replica), httpx.AsyncClient(timeout=30) as client:
            url = f"http://127.0.0.1:{port}/v1"
            under_way = [asyncio.create_task(client.post(f"{url}/recommend", json={})) for _ in range(most)]
            while len(asked) < most:
                await asyncio.sleep(0.01)
            refused = await client.post(f"{url}/rank", json={}, headers={"x-request-id": 'my"id'})
            unnamed = await client.post(f"{url}/recommend", json={})
            events = asyncio.create_task(client.post(f"{url}/events", json={}))
            while len(asked) < most + 1:
                await asyncio.sleep(0.01)
            go_on.set()
            return refused, unnamed, [await one for one in (*under_way, events)]

    refused, unnamed, answered = asyncio.run(scenario())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    error = refused.json()["error"]
    assert error == {"code": "overloaded", "message": error["message"], "request_id": "myid"}
    assert refused.headers["x-request-id"] == "myid"
    assert len(unnamed.json()["error"]["request_id"]) == 36
    assert [one.status_code for one in answered] == [200] * (most + 1)
    assert asked == [b"/v1/recommend"] * most + [b"/v1/events"]


def test_once_replicas_were_full_no_more_is_let_in_for_a_while_than_keeps_them_busy(front):
    port, replica, most, enough = front
    places = asyncio.Semaphore(0)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await places.acquire()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def at_once(client, count):
        """Ask `count` times; nothing is answered before all that are not refused wait for it."""
        url = f"http://127.0.0.1:{port}/v1/recommend"
        asked = [asyncio.create_task(client.post(url, json={})) for _ in range(count)]
        await asyncio.sleep(0.5)
        for _ in range(sum(not one.done() for one in asked)):
            places.release()
        return sorted([(await one).status_code for one in asked])

    async def scenario():
        async with await asyncio.start_server(answer, "127.0.0.1", replica), httpx.AsyncClient(timeout=30) as client:
            before = await at_once(client, most)
            full = await at_once(client, most + 1)
            after = await at_once(client, most)
            await asyncio.sleep(6)
            return before, full, after, await at_once(client, most)

    before, full, after, later = asyncio.run(scenario())
    assert before == later == [200] * most
    assert full == [200] * most + [429]
    assert after == [200] * enough + [429] * (most - enough)


def test_ray_still_writes_what_is_edited():
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE as template

    assert "backend {{ backend.name or 'unknown' }}\n" in template
    assert "bind {{ config.frontend_host }}:{{ config.frontend_port }}" in template
    assert "bind :{{ config.metrics_port }}" in template


def test_ray_still_reads_what_is_set(monkeypatch):
    from ray.serve._private import constants

    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    monkeypatch.setattr(os, "environ", variables)
    frontend.prepare(ServeConfig())
    known, names = inspect.getsource(constants), [name for name in variables if name.startswith("RAY_SERVE_")]
    assert names
    assert [name for name in names if f'"{name}"' not in known] == []
