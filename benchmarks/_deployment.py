"""A deployment by the command: what the benchmark and the proofs of serving have in common."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import psutil
from _load import Outcome, constant_rate

ROOT = Path("store/serving")
"""Where runs are kept between calls."""


@dataclass
class Deployment:
    """An endpoint that runs."""

    url: str
    process: psutil.Process

    def replicas(self) -> list[psutil.Process]:
        """Return the processes that answer."""
        found = []
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(word.startswith("ray::ServeReplica") for word in child.cmdline()):
                    found.append(child)
        return found

    def memory_mb(self) -> float:
        """Return the resident memory of everything that runs for it."""
        total = 0
        for child in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += child.memory_full_info().uss
        return total / 2**20

    def get(self, path: str) -> Any:
        """Return what a path answers."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        """Post a body, and return the answer."""
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    async def load(self, path: str, rate: float, seconds: float, bodies: list[bytes], retries: int = 0) -> Outcome:
        """Post bodies in turn at a constant rate."""
        return await constant_rate(
            f"{self.url}{path}", rate, seconds, lambda number: bodies[number % len(bodies)], retries=retries
        )


@contextlib.contextmanager
def deployed(run: Path, settings: dict[str, Any]) -> Iterator[Deployment]:
    """Serve a run by `raysys serve` with some settings, open to whoever is on this machine."""
    command = [sys.executable, "-m", "raysys", "serve", str(run), "--port", "0", "--json"]
    for name, value in {"access.enabled": False, **settings}.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    with started(command) as deployment:
        yield deployment


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[Deployment]:
    """Run a command that prints {"url": ...} when it answers, and interrupt it at the end."""
    with tempfile.TemporaryFile("w+") as log:
        env = {**os.environ, **peers.ONE_THREAD}
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise SystemExit(f"{command} did not start:\n{log.read()[-3000:]}")
            yield Deployment(json.loads(line)["url"], psutil.Process(process.pid))
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                for one in [psutil.Process(process.pid), *family]:
                    with contextlib.suppress(psutil.Error):
                        one.kill()


async def until(true: Any, seconds: float) -> float:
    """Wait until something holds; returns how long it took.

    Raises:
        TimeoutError: it does not hold in time.
    """
    began = time.monotonic()
    while not await asyncio.to_thread(true):
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds} s")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def proof_options(about: str | None, name: str, **numbers: float) -> argparse.Namespace:
    """Read the command line of a proof: numbers with their defaults, where runs are kept, where figures go."""
    parser = argparse.ArgumentParser(description=about)
    for number, default in numbers.items():
        parser.add_argument(f"--{number}", type=type(default), default=default)
    parser.add_argument("--root", type=Path, default=ROOT, help="where runs are kept between calls")
    parser.add_argument("-o", "--output", type=Path, default=Path(f"benchmarks/results/evidence-{name}.json"))
    return parser.parse_args()


def write(output: Path, found: Any) -> None:
    """Write figures as JSON, with the machine that gave them."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": peers.machine(), **found}, indent=1) + "\n")
