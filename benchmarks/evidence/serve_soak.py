"""Thirty minutes at a steady rate, with events posted all the while: memory must stay flat, and nothing may fail.

Resumable it is not: a soak is one piece.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
from _deployment import Deployment, deployed, proof_options, write
from _load import Outcome
from _serving import served_run
from serve import histories


def main() -> None:
    options = proof_options(__doc__, "serve_soak", minutes=30.0, rate=100.0)
    run = served_run("ml-1m", options.root)
    with deployed(run, {"autoscaling": {"min_replicas": 1, "max_replicas": 1}}) as deployment:
        found = asyncio.run(_soaked(deployment, options.rate, options.minutes))
    write(options.output, found)
    print(json.dumps({name: value for name, value in found.items() if name != "memory_mb"}, indent=1))
    assert set(found["load"]["statuses"]) <= {"200"}, "requests failed"


async def _soaked(deployment: Deployment, rate: float, minutes: float) -> dict[str, Any]:
    bodies, total = histories(3_700, 2000), Outcome()
    users = [json.dumps({"user_id": f"u{number}", "k": 10}).encode() for number in range(6_000)]
    mixed = [body for pair in zip(bodies, users[: len(bodies)], strict=True) for body in pair]
    memory: list[tuple[float, float]] = []
    began = time.monotonic()
    while time.monotonic() - began < minutes * 60:
        event_number = len(memory)
        events = [_event(event_number * 100 + number) for number in range(100)]
        found, posted = await asyncio.gather(
            deployment.load("/v1/recommend", rate, 10, mixed), deployment.load("/v1/events", 10, 10, events)
        )
        for one in (found, posted):
            total.statuses += one.statuses
            total.sent += one.sent
        total.latencies_ms += found.latencies_ms
        total.seconds += found.seconds
        memory.append((time.monotonic() - began, deployment.replicas()[0].memory_info().rss / 2**20))
    settled = np.array(memory[len(memory) // 6 :])
    slope = float(np.polyfit(settled[:, 0] / 3600, settled[:, 1], 1)[0]) if len(settled) > 2 else float("nan")
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "rate": rate,
        "load": total.to_json(),
        "replica_memory_slope_mb_per_hour": round(slope, 2),
        "memory_mb": [[round(seconds), round(size, 1)] for seconds, size in memory],
    }


def _event(number: int) -> bytes:
    event = {"user_id": f"u{number % 6000}", "item_id": f"i{number % 3700}", "event_id": f"soak-{number}"}
    return json.dumps({"events": [event]}).encode()


if __name__ == "__main__":
    main()
