"""Three million items, the histories of a million users in Redis, an open loop: the highest rate that holds 80 ms.

One replica (or `--replicas`) answers for users drawn at random; requests come at a constant rate, whatever is answered.
From the highest rate whose 99th percentile is within the limit follow the replicas that 500 requests a second need.
Vectors are barely
trained and have no neighbourhoods, so `auto` looks at all of them; the same with cells shows what vectors would cost
that have some, because a search takes as long whatever it finds. With `--gpus 1` a scorer has the model on a GPU, and
all vectors are searched there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
from _deployment import deployed, proof_options, write
from _load import highest_rate
from _redis import redis_server
from _serving import SIZES, served_run

LIMIT_MS, WANTED = 80.0, 500
INDEXES = ("auto", "approximate")
EVENTS, START = 50, 1_700_000_000_000


def main() -> None:
    options = proof_options(__doc__, "serve_case", users=1_000_000, seconds=10.0, replicas=1, gpus=0.0)
    run = served_run("3m", options.root)
    with redis_server("no") as server:
        store = {"kind": "redis", "url": server.url}
        seeded = asyncio.run(_seed(run, store, options.users, SIZES["3m"]["num_items"]))
        print(seeded, flush=True)
        found = {kind: _held(run, store, kind, options) for kind in (INDEXES[:1] if options.gpus else INDEXES)}
    report = {"users": seeded, "slo_p99_ms": LIMIT_MS, "cores": os.cpu_count(), "replicas": options.replicas, **found}
    write(options.output, report)
    print(json.dumps(report, indent=1))


def _held(run: Path, store: dict[str, Any], kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the highest rate that the replicas hold with an index, and how many 500 requests a second need."""
    settings = {
        "store": store,
        "retrieval": {"kind": kind},
        "autoscaling": {"min_replicas": options.replicas, "max_replicas": options.replicas},
        "limits": {"deadline_ms": 500},
    }
    if options.gpus:
        settings["scorer"] = {"num_gpus": options.gpus, "num_cpus": 1}
    users = np.random.default_rng(0).integers(options.users, size=20_000)
    bodies = [json.dumps({"user_id": f"case-{user}", "k": 10}).encode() for user in users]
    with deployed(run, settings) as deployment:
        memory = deployment.replicas()[0].memory_info().rss / 2**20
        url = f"{deployment.url}/v1/recommend"
        found = asyncio.run(highest_rate(url, bodies, {}, LIMIT_MS, options.seconds))
        retrieval = deployment.get("/v1/models")["models"][0].get("retrieval")
    rate = found["highest_rate"]
    needed = math.ceil(WANTED * options.replicas / rate) if rate else None
    return {"replica_mb": round(memory), "retrieval": retrieval, **found, "replicas_for_500": needed}


async def _seed(run: Path, store: dict[str, Any], count: int, num_items: int) -> dict[str, float]:
    """Put generated histories into the store, as `raysys users load` puts those of a dataset."""
    from raysys.runs import Run
    from serving.config import ServeConfig
    from serving.stores import make_store

    opened = Run.open(run)
    config = ServeConfig(store=store).with_places(opened.config.root, opened.record.project)
    made = make_store(config.store)
    await made.open()
    began, event = time.perf_counter(), opened.manifest.history[0]
    for first in range(0, count, 10_000):
        await made.load(list(_users(first, min(10_000, count - first), num_items, event)))
    seconds, some = time.perf_counter() - began, [f"case-{number}" for number in range(200)]
    size = await made.size(some)
    await made.close()
    return {"users": count, "seconds": round(seconds, 1), "bytes_per_user": round(size / len(some), 1)}


def _users(first: int, count: int, num_items: int, event: str) -> Iterator[Any]:
    from serving.stores import LoadedUser
    from serving.users.state import StoredEvent, pack_user

    items = np.random.default_rng(first).integers(num_items, size=(count, EVENTS))
    for place, own in enumerate(items.tolist()):
        events = [StoredEvent(f"i{item}", event, START + at * 60_000) for at, item in enumerate(own)]
        packed = b",".join(one.pack() for one in events).decode()
        yield LoadedUser(f"case-{first + place}", events[-1].time, pack_user("case" * 4, -1, "{}", packed))


if __name__ == "__main__":
    main()
