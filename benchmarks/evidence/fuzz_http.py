"""Asks every endpoint thousands of things that schemathesis makes from the OpenAPI document, and counts the answers.

Half of the requests fit the document, half are broken on purpose, in the body or the key. Three quarters are then given
a key that is right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

REQUESTS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/evidence-fuzz_http.json"))
    parser.add_argument("-n", "--requests", type=int, default=REQUESTS)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = fuzz(Path(folder), options.requests)
    failed = sum(count for row in rows for status, count in row["statuses"].items() if status >= "500")
    total = sum(sum(row["statuses"].values()) for row in rows)
    found = {"rows": rows, "requests": total, "of_5xx": failed, "seconds": round(time.perf_counter() - began)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{total:,} requests, {failed} of 5xx")
    if failed or total < options.requests:
        sys.exit("an endpoint failed, or there were too few requests")


def fuzz(root: Path, requests: int) -> list[dict[str, Any]]:
    """Return how often each endpoint answered with each status, and what broke a promise of the document."""
    import schemathesis
    from schemathesis import GenerationMode

    from serving.endpoints import ENDPOINTS
    from serving.http.gateway import Gateway

    service, key = make_service(root)
    schema = schemathesis.openapi.from_asgi("/openapi.json", Gateway(service))
    takes = {name: one for name, one in ENDPOINTS.items() if one.body is not None or "{" in one.path}
    plain = {name: one for name, one in ENDPOINTS.items() if name not in takes}
    each = -(-(requests - 20 * len(plain)) // (2 * len(takes)))  # nothing varies where nothing is taken
    plan = [(name, GenerationMode.POSITIVE, 20) for name in plain]
    plan += [(name, mode, each) for name in takes for mode in GenerationMode]
    rows = []
    for name, mode, count in plan:
        operation = schema[ENDPOINTS[name].path][ENDPOINTS[name].method]
        statuses, broken = ask(operation, mode, count, key)
        rows.append({"name": f"{name} {mode.value}", "statuses": dict(sorted(statuses.items())), "broken": broken})
        print(rows[-1], flush=True)
    return rows


def ask(operation: Any, mode: Any, count: int, key: str) -> tuple[Counter[str], list[str]]:
    """Make and send `count` requests."""
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

    statuses: Counter[str] = Counter()
    broken: set[str] = set()
    beyond = [positive_data_acceptance, ignored_auth]  # keys are left out below; k_max is the server's own

    def once(case: Any) -> None:
        headers = {} if sum(statuses.values()) % 4 == 3 else {"authorization": f"Bearer {key}"}
        response = case.call(headers=headers)
        statuses[str(response.status_code)] += 1
        unread = [negative_data_rejection] if response.status_code == 413 else []
        try:
            case.validate_response(response, excluded_checks=[*beyond, *unread], headers=headers)
        except FailureGroup as group:
            broken.update(failure.title for failure in group.exceptions)

    left = count
    while left > 0:  # where few things can be sent, hypothesis stops early: again from another seed
        before = sum(statuses.values())
        limits = settings(
            max_examples=left,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        limits(given(case=operation.as_strategy(generation_mode=mode))(once))()
        left = count - sum(statuses.values())
        if sum(statuses.values()) == before:
            break
    return statuses, sorted(broken)


def make_service(root: Path) -> tuple[Any, str]:
    """Train a tiny run, and return a service over it that asks for keys, and a key for everything."""
    import raysys
    from raysys.configfile import build
    from raysys.data.config import IngestConfig
    from raysys.data.ingest import ingest
    from raysys.data.line import in_process
    from serving.access.keys import SCOPES, add_key
    from serving.config import ServeConfig
    from serving.service import Service
    from serving.stores import make_store
    from serving.users.seeding import seed

    source = {"format": "synthetic", "num_users": 300, "num_items": 60, "events_per_user": 12}
    node = {"project": "fuzz", "root": str(root), "split": {"kind": "leave_one_out"}, **source}
    dataset = ingest(build(IngestConfig, node, "fuzz"), root / "datasets" / "fuzz", each=in_process)
    config = {
        "project": "fuzz",
        "root": str(root),
        "dataset": str(dataset.path),
        "model": {"width": 16, "max_length": 16, "backbone": {"num_blocks": 1}},
        "tasks": {"next_item": {}, "rating": {}},
        "training": {"epochs": 1, "batch_size": 32, "threads": 1},
        "evaluation": {"resamples": 20},
    }
    run = raysys.train(config)
    serve = ServeConfig(limits={"deadline_ms": 60_000}).with_places(str(root), "fuzz")  # no 429: all are answered
    seed(run, serve)
    key = add_key(Path(str(serve.access.keys)), "fuzz", SCOPES)
    return asyncio.run(Service.load(serve.replica(str(run.path)).model_dump(), make_store(serve.store))), key


if __name__ == "__main__":
    main()
