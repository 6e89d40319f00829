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
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peers
import psutil
from _deployment import deployed
from _load import closed_loop, highest_rate
from _serving import SIZES, served_run

from serving.access.keys import add_key

CONNECTIONS = (1, 16, 64)
MOST_OVERHEAD_MS = 1.5
LOOP = "loop"
HISTORY = 20
_PATH = "/v1/recommend"


def main() -> None:
    options = _options()
    if options.loop:
        _loop(options.loop)
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


@dataclass
class Server:
    """Something that answers. A peer's processes are stopped while others are measured: one of them spins when idle."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    family: Sequence[psutil.Process] = ()

    def sleep(self) -> None:
        """Stop."""
        for one in self.family:
            one.suspend()

    def wake(self) -> None:
        """Go on."""
        for one in self.family:
            one.resume()


def _compared(size: str, run: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all servers in turn, several times: what the machine's other tenants take is then shared by all."""
    bodies, rows = histories(SIZES[size]["num_items"], 500), []
    servers: dict[str, Any] = {"ours": ours(run), "FastAPI": fastapi(run)}
    if not options.quick:
        servers["LitServe"] = litserve(run)
    with contextlib.ExitStack() as stack:
        ask_loop = stack.enter_context(looped(run))
        up = {name: stack.enter_context(server) for name, server in servers.items()}
        for server in up.values():
            closed_loop(server.url + _PATH, 4, 1, bodies, server.headers)
            server.sleep()
        rounds = [_round(up, ask_loop, bodies, options.seconds) for _ in range(options.rounds)]
    middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    for peer in list(servers)[1:]:
        for count in CONNECTIONS:
            name = f"{size}, {count} connection{'s' * (count > 1)}"
            rates, times = ([middle[who, count, what] for who in ("ours", peer)] for what in ("rate", "p99"))
            rows.append(peers.row(name, rates[0], rates[1], peer, "requests/s"))
            rows.append(peers.row(f"{name}, p99", times[0], times[1], peer, "ms", lower_is_better=True))
    for who in servers:
        over = statistics.median(one[who, 1, "p50"] - one[LOOP] for one in rounds)
        name = f"{size}, p50 of {who} over a loop" if who != "ours" else f"{size}, p50 over a loop"
        rows.append(peers.row(name, over, MOST_OVERHEAD_MS, "limit", "ms", lower_is_better=True))
    rows.append(peers.row(f"{size}, p50 of the loop", middle[LOOP], None, "none", "ms"))
    return rows


def _round(
    up: Mapping[str, Server],
    ask_loop: Callable[[float], float],
    bodies: list[bytes],
    seconds: float,
) -> dict[Any, float]:
    found: dict[Any, float] = {LOOP: ask_loop(seconds)}
    for count in CONNECTIONS:
        for who, server in up.items():
            server.wake()
            closed_loop(server.url + _PATH, count, 1, bodies, server.headers)
            outcome = closed_loop(server.url + _PATH, count, seconds, bodies, server.headers)
            server.sleep()
            found[who, count, "rate"] = outcome.statuses["200"] / outcome.seconds
            found |= {(who, count, f"p{percent}"): outcome.percentile(percent) for percent in (50, 99)}
    return found


def histories(num_items: int, count: int) -> list[bytes]:
    """Return the bodies of visitors with random histories."""
    draw = random.Random(0)
    made = ([f"i{draw.randrange(num_items)}" for _ in range(HISTORY)] for _ in range(count))
    return [json.dumps({"history": history, "k": 10}).encode() for history in made]


@contextlib.contextmanager
def ours(run: Path) -> Iterator[Server]:
    """Serve a run by the command, with a key as clients have one."""
    with tempfile.TemporaryDirectory() as folder:
        key = add_key(Path(folder) / "keys.json", "benchmark", ("read",))
        with deployed(run, {"access": {"enabled": True, "keys": f"{folder}/keys.json"}}) as deployment:
            yield Server(deployment.url, {"authorization": f"Bearer {key}"})


@contextlib.contextmanager
def fastapi(run: Path) -> Iterator[Server]:
    """Serve the model of a run behind FastAPI and uvicorn."""
    script = Path(__file__).with_name("_fastapi_app.py")
    with _process([sys.executable, str(script), str(run)]) as server:
        yield server


@contextlib.contextmanager
def litserve(run: Path) -> Iterator[Server]:
    """Serve the model of a run by LitServe, in this environment's interpreter with LitServe beside it."""
    python = peers.environment("litserve", peers.REQUIREMENTS["litserve"])
    script = peers.SCRIPTS / "litserve_app.py"
    with _process([str(python), str(script), str(run)]) as server:
        yield server


@contextlib.contextmanager
def looped(run: Path) -> Iterator[Callable[[float], float]]:
    """Load the model in a process of its own; gives what asks it in a loop for some seconds, and returns p50 in ms."""
    command = [sys.executable, __file__, "--loop", str(run)]
    env = {**os.environ, **peers.ONE_THREAD}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told, answers = process.stdin, process.stdout
        assert told is not None
        assert answers is not None

        def ask(seconds: float) -> float:
            told.write(f"{seconds}\n")
            told.flush()
            return float(answers.readline())

        try:
            yield ask
        finally:
            told.close()


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[Server]:
    port = free_port()
    env = {**os.environ, **peers.ONE_THREAD, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, str(port)], env=env, stdout=log, stderr=log)
        server = Server(f"http://127.0.0.1:{port}")
        try:
            if not _answers(server.url, process):
                log.seek(0)
                raise SystemExit(f"{command} does not answer:\n{log.read()[-3000:]}")
            own = psutil.Process(process.pid)
            server.family = [own, *own.children(recursive=True)]
            yield server
        finally:
            for one in server.family or [psutil.Process(process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait(60)


def _answers(url: str, process: subprocess.Popen[Any]) -> bool:
    """Wait until a server answers anything, or ends."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/", timeout=5)
            return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            if process.poll() is not None:
                return False
            time.sleep(0.2)
    return False


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _loop(run: str) -> None:
    """Call the model in a loop, for as many seconds as each line of the input says, and print p50 in ms."""
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
    for line in sys.stdin:
        times: list[float] = []
        while sum(times) < float(line):
            began = time.perf_counter()
            retrieval.answers([questions[len(times) % len(questions)]])
            times.append(time.perf_counter() - began)
        print(statistics.median(times) * 1000, flush=True)


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small catalogue, without LitServe")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="catalogues to compare [ml-1m 1m]")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server, of which the median counts")
    parser.add_argument("--root", type=Path, help="where runs are kept between calls")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--url", help="load this endpoint (URL of /v1/recommend) instead")
    parser.add_argument("--rate", type=float, help="requests per second; without it the highest is looked for")
    parser.add_argument("--slo-p99", default="80ms", help="limit of the 99th percentile")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--bodies", type=Path, help="file with a body a line")
    parser.add_argument("--users", type=int, help="ask for users u0 .. uN-1")
    parser.add_argument("--items", type=int, default=1000, help="ask by random histories of items i0 .. iN-1")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sizes = options.sizes or (["ml-1m"] if options.quick else ["ml-1m", "1m"])
    return options


if __name__ == "__main__":
    main()
