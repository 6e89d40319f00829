"""Kills replicas under load, twenty times: no request may fail that a retry does not heal, and no event be lost.

Two replicas answer at a constant rate while events are posted; one of them is killed at a random moment, and the next
kill waits until two answer again. At the end every event that was accepted must be in the state of its user, once.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from _deployment import Deployment, deployed, proof_options, until, write
from _load import Outcome
from _serving import served_run
from serve import histories

RATE, EVENT_RATE, USERS = 40.0, 10.0, 50


def main() -> None:
    options = proof_options(__doc__, "serve_kills", kills=20)
    run = served_run("ml-1m", options.root)
    settings = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}}
    with deployed(run, settings) as deployment:
        found = asyncio.run(_killed(deployment, options.kills))
    write(options.output, found)
    print(json.dumps(found, indent=1))
    assert found["lost_events"] == found["twice"] == 0, "events were lost or stored twice"
    assert set(found["with_retries"]["statuses"]) <= {"200"}, "a request failed that retries should heal"


async def _killed(deployment: Deployment, kills: int) -> dict[str, Any]:
    draws, moments = random.Random(0), []
    stop = asyncio.Event()
    plain = asyncio.create_task(_until_stopped(deployment, stop, 0))
    healed = asyncio.create_task(_until_stopped(deployment, stop, 3))
    events = asyncio.create_task(_events(deployment, stop))
    for _ in range(kills):
        await asyncio.sleep(draws.uniform(1, 3))
        draws.choice(deployment.replicas()).kill()
        await asyncio.sleep(1)
        moments.append(round(1 + await until(lambda: len(deployment.replicas()) == 2 and _ready(deployment), 120), 1))
    await asyncio.sleep(2)
    stop.set()
    without, with_retries, accepted = await plain, await healed, await events
    stored = [
        event["item_id"]
        for user in range(USERS)
        for event in deployment.get(f"/v1/users/kill-{user}?limit=1000")["events"]
    ]
    return {
        "kills": kills,
        "seconds_until_two_answer": moments,
        "without_retries": without.to_json(),
        "with_retries": with_retries.to_json(),
        "accepted_events": len(accepted),
        "lost_events": len(set(accepted) - set(stored)),
        "twice": len(stored) - len(set(stored)),
    }


def _ready(deployment: Deployment) -> bool:
    try:
        return bool(deployment.get("/readyz"))
    except OSError:
        return False


async def _until_stopped(deployment: Deployment, stop: asyncio.Event, retries: int) -> Outcome:
    total, bodies = Outcome(), histories(3_700, 500)
    while not stop.is_set():
        found = await deployment.load("/v1/recommend", RATE, 5, bodies, retries)
        total.sent += found.sent
        total.seconds += found.seconds
        total.latencies_ms += found.latencies_ms
        total.statuses += found.statuses
    return total


async def _events(deployment: Deployment, stop: asyncio.Event) -> list[str]:
    """Post events, each of an item of its own, until each is accepted; returns the items."""
    accepted: list[str] = []
    number = 0
    while not stop.is_set():
        item = f"killed-{number}"
        event = {"user_id": f"kill-{number % USERS}", "item_id": item, "event_id": item}
        body = json.dumps({"events": [event]}).encode()
        found = await deployment.load("/v1/events", 1000, 0.001, [body], retries=3)
        if found.statuses["200"]:
            accepted.append(item)
        number += 1
        await asyncio.sleep(1 / EVENT_RATE)
    return accepted


if __name__ == "__main__":
    main()
