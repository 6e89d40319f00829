"""Requests per second and latency of `raysys serve`, beside the same model in a loop, behind FastAPI, and in LitServe.

Or load for any deployment: `serve.py --url URL --rate 200 --slo-p99 80ms` posts at a constant rate and says whether
the limit held; without --rate it looks for the highest rate that holds it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
from _deployment import deployed
from _load import Outcome, closed_loop, constant_rate
from _serving import SIZES, served_run

from serving.access.keys import add_key

CONNECTIONS = (1, 16, 64)
SHARE_OF_FASTAPI, MOST_OVERHEAD_MS = 0.7, 1.5
HISTORY = 20
_PATH = "/v1/recommend"


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(_loop(options.measure, options.seconds)))
        return
    if options.url:
        _deployment(options)
        return
    about, rows = peers.machine(), []
    root = options.root or Path(tempfile.mkdtemp(prefix="serve"))
    for size in options.sizes:
        rows += _compared(size, served_run(size, root), options)
    peers.table(rows)
    if options.output:
        peers.write(options.output, rows, about)


def _compared(size: str, run: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    bodies, rows = histories(SIZES[size]["num_items"], 500), []
    loop = peers.run_peer(Path(sys.executable), Path(__file__).absolute(), ["--measure", run])
    found = {"ours": _measured(ours(run), bodies, options)}
    found["FastAPI"] = _measured(fastapi(run), bodies, options)
    if not options.quick:
        found["LitServe"] = _measured(litserve(run), bodies, options)
    for peer in list(found)[1:]:
        for connections in CONNECTIONS:
            own, other = found["ours"][connections], found[peer][connections]
            name = f"{size}, {connections} connections"
            rates = _rate(own), _rate(other)
            rows.append(peers.row(f"{name}", *rates, peer, "requests/s"))
            times = own.percentile(99), other.percentile(99)
            rows.append(peers.row(f"{name}, p99", *times, peer, "ms", lower_is_better=True))
    overhead = found["ours"][1].percentile(50) - loop["p50_ms"]
    rows.append(peers.row(f"{size}, p50 over a loop", overhead, MOST_OVERHEAD_MS, "limit", "ms", lower_is_better=True))
    rows.append(peers.row(f"{size}, loop", loop["per_second"], None, "none", "requests/s"))
    return rows


def _rate(outcome: Outcome) -> float:
    return outcome.statuses["200"] / outcome.seconds


def _measured(server: Any, bodies: list[bytes], options: argparse.Namespace) -> dict[int, Outcome]:
    with server as (url, headers):
        closed_loop(url + _PATH, 4, 1, bodies, headers)
        return {count: closed_loop(url + _PATH, count, options.seconds, bodies, headers) for count in CONNECTIONS}


def histories(num_items: int, count: int) -> list[bytes]:
    """Return the bodies of visitors with random histories."""
    draw = random.Random(0)
    made = ([f"i{draw.randrange(num_items)}" for _ in range(HISTORY)] for _ in range(count))
    return [json.dumps({"history": history, "k": 10}).encode() for history in made]


@contextlib.contextmanager
def ours(run: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve a run by the command; gives the URL and the headers that let one in, with a key as clients have one."""
    with tempfile.TemporaryDirectory() as folder:
        key = add_key(Path(folder) / "keys.json", "benchmark", ("read",))
        with deployed(run, {"access": {"enabled": True, "keys": f"{folder}/keys.json"}}) as deployment:
            yield deployment.url, {"authorization": f"Bearer {key}"}


@contextlib.contextmanager
def fastapi(run: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the model of a run behind FastAPI and uvicorn."""
    script = Path(__file__).with_name("_fastapi_app.py")
    with _process([sys.executable, str(script), str(run)]) as url:
        yield url, {}


@contextlib.contextmanager
def litserve(run: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the model of a run by LitServe, in this environment's interpreter with LitServe beside it."""
    python = peers.environment("litserve", peers.REQUIREMENTS["litserve"])
    script = peers.SCRIPTS / "litserve_app.py"
    with _process([str(python), str(script), str(run)]) as url:
        yield url, {}


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[str]:
    port = free_port()
    env = {**os.environ, **peers.ONE_THREAD, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen([*command, str(port)], env=env, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[Any]) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/", timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"{process.args} ended with {process.returncode}") from None
            time.sleep(0.2)
    raise SystemExit(f"{process.args} does not answer")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _loop(run: str, seconds: float) -> dict[str, float]:
    """Return rate and p50 of the model called in a loop, in this process."""
    import torch

    from raysys.runs import Run
    from serving.answers.encoding import with_history
    from serving.answers.question import Question
    from serving.answers.retrieval import Retrieval
    from serving.config import AnswerConfig
    from serving.users.state import NOBODY

    torch.set_num_threads(1)
    opened = Run.open(run)
    retrieval = Retrieval(opened, AnswerConfig())
    event, num_items = opened.manifest.history[0], opened.manifest.num_items
    asked = [json.loads(body)["history"] for body in histories(num_items, 500)]
    questions = [Question(with_history(NOBODY, history, event), k=10) for history in asked]
    for question in questions[:50]:
        retrieval.answers([question])
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        retrieval.answers([questions[len(times) % len(questions)]])
        times.append(time.perf_counter() - began)
    times.sort()
    return {"per_second": len(times) / sum(times), "p50_ms": times[len(times) // 2] * 1000}


def _deployment(options: argparse.Namespace) -> None:
    """Load a deployment that is there, and say whether it holds its limit."""
    headers = {"authorization": f"Bearer {options.key}"} if options.key else {}
    bodies = _bodies(options)
    limit = float(options.slo_p99.removesuffix("ms"))
    rates = [options.rate] if options.rate else None
    found = asyncio.run(highest_rate(options.url, bodies, headers, limit, options.seconds, rates))
    print(json.dumps({"slo_p99_ms": limit, **found}, indent=1))
    if options.rate and not found["held"]:
        sys.exit(1)


def _bodies(options: argparse.Namespace) -> list[bytes]:
    if options.bodies:
        return [line.encode() for line in options.bodies.read_text().splitlines() if line.strip()]
    if options.users:
        draw = random.Random(0)
        return [json.dumps({"user_id": f"u{draw.randrange(options.users)}", "k": 10}).encode() for _ in range(20_000)]
    return histories(options.items, 5000)


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small catalogue, without LitServe")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="catalogues to compare [ml-1m 1m]")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--root", type=Path, help="where runs are kept between calls")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--url", help="load this endpoint (URL of /v1/recommend) instead")
    parser.add_argument("--rate", type=float, help="requests per second; without it the highest is looked for")
    parser.add_argument("--slo-p99", default="80ms", help="limit of the 99th percentile")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--bodies", type=Path, help="file with a body a line")
    parser.add_argument("--users", type=int, help="ask for users u0 .. uN-1")
    parser.add_argument("--items", type=int, default=1000, help="ask by random histories of items i0 .. iN-1")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sizes = options.sizes or (["ml-1m"] if options.quick else ["ml-1m", "1m"])
    return options


if __name__ == "__main__":
    main()
