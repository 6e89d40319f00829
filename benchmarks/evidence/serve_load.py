"""Three times too much load, and a step of load: what is refused, what waits, and when the second replica answers.

Overload: one replica; the highest rate that it sustains, with a 99th percentile of 100 ms, is found first. Then three
times as much: what is admitted must keep its 99th percentile within twice that at the sustained rate, and the rest be
refused with 429. Step: up to two replicas, beside a trivial deployment with the same autoscaling. It calls for a second
replica, but leaves it cores to start on. Both are repeated in turn, and judged by the median, because the machine has
other tenants; how much of it they took is written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import psutil
from _deployment import Deployment, deployed, proof_options, started, until, write
from _load import Outcome
from _serving import served_run
from serve import free_port, histories

ITEMS, LIMIT_MS = 3_700, 100.0
COARSE, FINE = 1.25, 1.05
STEP_RATE = 150.0
SCALING = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 0.1, "downscale_delay_s": 5}
TRIVIAL = Path(__file__).with_name("_trivial.py")


def main() -> None:
    """Prove both, or what is not given 0 rounds or steps: of that the record stays as it is."""
    options = proof_options(__doc__, "serve_load", seconds=10.0, rounds=3, steps=3)
    run = served_run("ml-1m", options.root)
    found = json.loads(options.output.read_text()) if options.output.is_file() else {}
    if options.rounds:
        with deployed(run, {"autoscaling": {"min_replicas": 1, "max_replicas": 1}}) as deployment:
            found["overload"] = asyncio.run(_overload(deployment, options.seconds, options.rounds))
    if options.steps:
        found |= _steps(run, options.steps)
    found.pop("machine", None)
    write(options.output, found)
    print(json.dumps(found, indent=1))


def _steps(run: Path, count: int) -> dict[str, Any]:
    ours, trivial = [], []
    for number in range(count):
        with deployed(run, {"autoscaling": SCALING}) as deployment:
            ours.append(asyncio.run(_step(deployment, down=number == 0)))
        with started([sys.executable, str(TRIVIAL), str(free_port()), json.dumps(SCALING)]) as deployment:
            trivial.append(asyncio.run(_step(deployment, down=False)))
    behind = median(one["second_answers_s"] for one in ours) - median(one["second_answers_s"] for one in trivial)
    return {"steps": ours, "trivial_steps": trivial, "seconds_behind_trivial": round(behind, 1)}


async def _overload(deployment: Deployment, seconds: float, rounds: int) -> dict[str, Any]:
    bodies = histories(ITEMS, 500)
    await deployment.load("/v1/recommend", 20, 3, bodies)
    rate = 300.0
    for factor in (COARSE, FINE):
        while await _sustained(deployment, rate * factor, seconds / 2, bodies) is not None:
            rate *= factor
    found = []
    for _ in range(rounds):
        found.append(await _round(deployment, rate, seconds, bodies))
        rate = found[-1]["rate"]
    after = await deployment.load("/v1/recommend", rate, seconds, bodies)
    return {
        "rounds": found,
        "after": after.to_json(),
        "p99_ratio": median(one["p99_ratio"] for one in found),
        "answered": all(one["answered"] for one in found),
    }


async def _sustained(deployment: Deployment, rate: float, seconds: float, bodies: list[bytes]) -> Outcome | None:
    """Return what came of a rate that is sustained in one of three tries: the machine has other tenants."""
    for _ in range(3):
        found = await deployment.load("/v1/recommend", rate, seconds, bodies)
        if set(found.statuses) == {"200"} and found.percentile(99) <= LIMIT_MS:
            return found
    return None


async def _round(deployment: Deployment, rate: float, seconds: float, bodies: list[bytes]) -> dict[str, Any]:
    """Compare three times a rate with it, or with a lower one, where that is not sustained for so long."""
    while (sustained := await _sustained(deployment, rate, seconds, bodies)) is None:
        rate /= FINE
    with _others(deployment) as others:
        over = await deployment.load("/v1/recommend", 3 * rate, seconds, bodies)
    return {
        "rate": round(rate, 1),
        "sustained": sustained.to_json(),
        "three_times": _with_refused(over),
        "p99_ratio": round(over.percentile(99) / sustained.percentile(99), 2),
        "answered": sum(over.statuses.values()) == over.sent and set(over.statuses) <= {"200", "429"},
        **others,
    }


def _with_refused(outcome: Outcome) -> dict[str, object]:
    refused = sorted(outcome.refused_ms)
    return {**outcome.to_json(), "refused_p99_ms": round(refused[len(refused) * 99 // 100], 2) if refused else None}


async def _step(deployment: Deployment, down: bool) -> dict[str, Any]:
    bodies, stop = histories(ITEMS, 500), asyncio.Event()
    with _others(deployment) as others:
        load = asyncio.create_task(_clients(deployment, stop, bodies))
        began = time.monotonic()
        await until(lambda: len(deployment.replicas()) == 2, 120)
        appeared = time.monotonic() - began
        answered = await until(lambda: _answering(deployment) == 2, 120) + appeared
    await asyncio.sleep(5)
    stop.set()
    seconds = {"second_process_s": round(appeared, 1), "second_answers_s": round(answered, 1), **others}
    found = {**seconds, "statuses_up": await load}
    if not down:
        return found
    light = asyncio.create_task(deployment.load("/v1/recommend", 10, 60, bodies))
    to_one = await until(lambda: len(deployment.replicas()) == 1, 120)
    quiet = await light
    return {**found, "back_to_one_s": round(to_one, 1), "statuses_down": dict(quiet.statuses)}


async def _clients(deployment: Deployment, stop: asyncio.Event, bodies: list[bytes]) -> dict[str, int]:
    """Post second by second until told to stop."""
    total: dict[str, int] = {}
    while not stop.is_set():
        found = await deployment.load("/v1/recommend", STEP_RATE, 1, bodies, retries=1)
        for status, count in found.statuses.items():
            total[status] = total.get(status, 0) + count
    return total


def _answering(deployment: Deployment) -> int:
    """Return how many replicas have answered a client, by the front's own count."""
    rows = csv.DictReader(_front_says(deployment, "show stat").splitlines())
    return sum(int(row["hrsp_2xx"] or 0) > 0 for row in rows if row["svname"].startswith("SERVE_REPLICA"))


def _front_says(deployment: Deployment, command: str) -> str:
    """Ask HAProxy by its socket, which is beside its config."""
    (front, *_) = [words for words in _commands(deployment) if words[0].endswith("haproxy") and "-f" in words]
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(Path(front[front.index("-f") + 1]).with_name("admin.sock")))
        asked.sendall(f"{command}\n".encode())
        return asked.makefile().read()


def _commands(deployment: Deployment) -> Iterator[list[str]]:
    for child in deployment.process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if words := child.cmdline():
                yield words


@contextlib.contextmanager
def _others(deployment: Deployment) -> Iterator[dict[str, float]]:
    """Fill in, at the end of the block, how many cores were taken meanwhile by what does not belong to the proof."""
    found: dict[str, float] = {}
    began, before = time.monotonic(), (_busy(), _own(deployment))
    yield found
    busy, own = _busy() - before[0], _own(deployment) - before[1]
    found["cores_of_others"] = round(max(0.0, (busy - own) / (time.monotonic() - began)), 2)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _own(deployment: Deployment) -> float:
    """Return CPU seconds of the deployment and of this process; what ended takes its own along."""
    total = 0.0
    for one in [psutil.Process(), deployment.process, *deployment.process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += sum(one.cpu_times()[:2])
    return total


if __name__ == "__main__":
    main()
