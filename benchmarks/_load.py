"""Load for an HTTP endpoint: at a constant rate (an open loop, which queueing cannot slow down), or by wrk.

At a constant rate a request counts from the moment at which it was due, so a server that stalls cannot hide it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

Bodies = Callable[[int], bytes]
"""The body of the i-th request."""


@dataclass
class Outcome:
    """What came of a load."""

    seconds: float = 0.0
    sent: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    """Of the answers with status 200."""
    refused_ms: list[float] = field(default_factory=list)
    """Of the others."""
    statuses: Counter[str] = field(default_factory=Counter)
    moments: list[float] = field(default_factory=list)
    """When each latency was due, seconds after the beginning."""

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies, ms."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else float("inf")

    def to_json(self) -> dict[str, object]:
        """Return the figures."""
        return {
            "requests": self.sent,
            "per_second": round(len(self.latencies_ms) / max(self.seconds, 1e-9), 1),
            "p50_ms": round(self.percentile(50), 2),
            "p99_ms": round(self.percentile(99), 2),
            "statuses": dict(self.statuses),
        }


async def constant_rate(
    url: str,
    rate: float,
    seconds: float,
    bodies: Bodies,
    headers: Mapping[str, str] | None = None,
    retries: int = 0,
    timeout_s: float = 30.0,
) -> Outcome:
    """Post to a URL at a constant rate; a request that finds no free connection opens one.

    With `retries`, a request whose connection breaks is sent again, as a client of a load balancer does.
    """
    client, outcome = _Client(url, dict(headers or {})), Outcome()
    gc.collect()
    gc.freeze()  # a look at all objects takes longer than an answer
    began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))  # even when it lags: answers must come in meanwhile
        task = asyncio.create_task(_one(client, bodies(number), due, began, outcome, retries, timeout_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        outcome.sent += 1
    if tasks:
        await asyncio.wait(tasks)
    outcome.seconds = time.perf_counter() - began
    client.close()
    return outcome


async def highest_rate(
    url: str,
    bodies: list[bytes],
    headers: dict[str, str],
    limit_ms: float,
    seconds: float,
    rates: list[float] | None = None,
) -> dict[str, Any]:
    """Return what held: the given rate, or the highest that a search by doubling and halving finds."""
    steps: list[dict[str, Any]] = []

    async def holds(rate: float) -> bool:
        outcome = await constant_rate(url, rate, seconds, lambda number: bodies[number % len(bodies)], headers)
        held = outcome.percentile(99) <= limit_ms and set(outcome.statuses) <= {"200"}
        steps.append({"rate": round(rate, 1), "held": held, **outcome.to_json()})
        print(f"  {steps[-1]}", file=sys.stderr, flush=True)
        return held

    await constant_rate(url, 20, 3, lambda number: bodies[number % len(bodies)], headers)
    if rates:
        held = await holds(rates[0])
        return {"held": held, "steps": steps}
    low, high = 0.0, 25.0
    while await holds(high):
        low, high = high, high * 2
    while high - low > 0.08 * high and high > 1:
        middle = (low + high) / 2
        low, high = (middle, high) if await holds(middle) else (low, middle)
    return {"held": low > 0, "highest_rate": round(low, 1), "steps": steps}


async def _one(
    client: _Client, body: bytes, due: float, began: float, outcome: Outcome, retries: int, timeout_s: float
) -> None:
    status = "broken"
    for attempt in range(retries + 1):
        try:
            status = await asyncio.wait_for(client.post(body), timeout_s)
            break
        except TimeoutError:
            status = "timeout"
        except (OSError, EOFError, ValueError):
            status = "broken"
            await asyncio.sleep(0.05 * (attempt + 1))
    took = (time.perf_counter() - due) * 1000
    outcome.statuses[status] += 1
    (outcome.latencies_ms if status == "200" else outcome.refused_ms).append(took)
    if status == "200":
        outcome.moments.append(due - began)


class _Client:
    """Keep-alive connections to one host, taken and given back."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._head = "\r\n".join(lines).encode()
        self._free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def post(self, body: bytes) -> str:
        """Return the status of the answer."""
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            if length is None:
                raise ValueError("an answer without a length")
            await reader.readexactly(int(length[1]))
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._free.append((reader, writer))
        return head[9:12].decode()

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


_LUA = """
wrk.method = "POST"
{headers}
local bodies = {{ {bodies} }}
local number = 0
request = function()
  number = number % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[number])
end
"""


def closed_loop(url: str, connections: int, seconds: float, bodies: list[bytes], headers: Mapping[str, str]) -> Outcome:
    """Post by wrk over some connections, each waiting for its answer; returns percentiles and rate."""
    quoted = ", ".join(json.dumps(body.decode()) for body in bodies)
    told = {"content-type": "application/json", **headers}
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in told.items())
    script = _LUA.format(bodies=quoted, headers=lines)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script + _REPORT)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", file.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    outcome = Outcome(seconds=found["seconds"], sent=found["requests"])
    outcome.statuses["200"] = found["requests"] - found["errors"]
    if found["errors"]:
        outcome.statuses["other"] = found["errors"]
    outcome.latencies_ms = [float(value) for value in found["percentiles"]]
    return outcome


_REPORT = """
done = function(summary, latency, requests)
  local found = {}
  for percent = 0.5, 99.5, 1 do table.insert(found, string.format("%.4f", latency:percentile(percent) / 1000)) end
  local errors = summary.errors.status + summary.errors.timeout + summary.errors.read + summary.errors.connect
  io.write(string.format('\\n{"seconds": %f, "requests": %d, "errors": %d, "percentiles": [%s]}\\n',
    summary.duration / 1e6, summary.requests, errors, table.concat(found, ", ")))
end
"""
