"""Kills and restarts Redis under load: answers go on degraded, none fails, and no accepted event is lost.

Recommendations of users are asked at a constant rate, and events are posted; Redis is killed for some seconds, again
and again. An event is accepted (200) or refused (503); every accepted one must be stored at the end, once.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import yaml
from _deployment import Deployment, deployed, proof_options, until, write
from _load import Outcome
from _redis import Server, redis_server
from _serving import served_run

RATE, USERS = 40.0, 50


def main() -> None:
    options = proof_options(__doc__, "serve_redis", outages=5)
    run = served_run("ml-1m", options.root)
    with redis_server() as server, tempfile.TemporaryDirectory() as folder:
        store = {"kind": "redis", "url": server.url}
        config = Path(folder) / "serve.yaml"
        config.write_text(yaml.safe_dump({"store": store}))
        command = [sys.executable, "-m", "raysys", "users", "load", str(run), "--config", str(config)]
        subprocess.run(command, check=True)
        with deployed(run, {"store": store}) as deployment:
            found = asyncio.run(_outages(deployment, server, options.outages))
    write(options.output, found)
    print(json.dumps(found, indent=1))
    assert found["lost_events"] == found["twice"] == 0, "events were lost or stored twice"
    assert set(found["answers"]["statuses"]) == {"200"}, "an answer failed"


async def _outages(deployment: Deployment, server: Server, outages: int) -> dict[str, Any]:
    stop, answers, recoveries = asyncio.Event(), Outcome(), []
    load = asyncio.create_task(_load(deployment, stop, answers))
    posts = asyncio.create_task(_events(deployment, stop))
    degraded = 0
    for _ in range(outages):
        await asyncio.sleep(3)
        server.kill()
        await asyncio.sleep(3)
        degraded += await asyncio.to_thread(_is_degraded, deployment)
        server.start()
        recoveries.append(round(await until(lambda: not _is_degraded(deployment), 60), 2))
    await asyncio.sleep(2)
    stop.set()
    await load
    accepted, refused = await posts
    stored = [
        event["item_id"]
        for user in range(USERS)
        for event in deployment.get(f"/v1/users/redis-{user}?limit=1000")["events"]
    ]
    return {
        "outages": outages,
        "degraded_while_down": degraded,
        "seconds_until_whole_again": recoveries,
        "answers": answers.to_json(),
        "accepted_events": len(accepted),
        "refused_events": refused,
        "lost_events": len(set(accepted) - set(stored)),
        "twice": len(stored) - len(set(stored)),
    }


def _is_degraded(deployment: Deployment) -> bool:
    return bool(deployment.post("/v1/recommend", {"user_id": "u7", "k": 5}).get("degraded"))


async def _load(deployment: Deployment, stop: asyncio.Event, total: Outcome) -> None:
    bodies = [json.dumps({"user_id": f"u{number}", "k": 10}).encode() for number in range(500)]
    while not stop.is_set():
        found = await deployment.load("/v1/recommend", RATE, 2, bodies)
        total.sent += found.sent
        total.seconds += found.seconds
        total.latencies_ms += found.latencies_ms
        total.statuses += found.statuses


async def _events(deployment: Deployment, stop: asyncio.Event) -> tuple[list[str], int]:
    """Post events one by one; returns the items of the accepted ones, and how many were refused."""
    accepted, refused, number = [], 0, 0
    while not stop.is_set():
        item = f"redis-{number}"
        event = {"user_id": f"redis-{number % USERS}", "item_id": item, "event_id": item}
        found = await deployment.load("/v1/events", 1000, 0.001, [json.dumps({"events": [event]}).encode()])
        accepted += [item] * found.statuses["200"]
        refused += found.statuses["503"]
        assert set(found.statuses) <= {"200", "503"}, found.statuses
        number += 1
        await asyncio.sleep(0.1)
    return accepted, refused


if __name__ == "__main__":
    main()
