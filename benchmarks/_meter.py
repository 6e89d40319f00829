"""Measures a program together with every process it starts, Ray's included, from outside: seconds, memory, disk.

The program says when the clock starts: it prints READY and waits for a line, works, prints one JSON object and waits
for another line before it ends, so that its processes can still be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

READY = "ready to be measured"
EVERY = 0.2
"""Seconds between two samples: what is shorter may be missed, the last moments of a process that ends among it."""
_MARK = "RAYSYS_MEASURED"
_MB = 1 << 20


class Family:
    """All processes that descend from one which was started with `environment()`, also those with a new parent since.

    A member is known by a variable that every descendant inherits, or by its parent: Ray's workers write their titles
    over the place where Linux keeps the variables.
    """

    def __init__(self) -> None:
        self.token = f"{_MARK}={uuid.uuid4().hex}"
        self._known: dict[tuple[int, float], psutil.Process | None] = {}  # None: a stranger
        self._lock = threading.Lock()

    def environment(self) -> dict[str, str]:
        """Return the variables for the first process."""
        return {**os.environ, _MARK: self.token.partition("=")[2]}

    def members(self) -> list[psutil.Process]:
        """Return the processes that live now."""
        with self._lock:
            living = {(process.pid, process.create_time()): process for process in psutil.process_iter()}
            self._known = {key: found for key, found in self._known.items() if key in living}
            ours = {key[0] for key, found in self._known.items() if found is not None}
            for key in sorted(living.keys() - self._known.keys(), key=lambda key: key[1]):
                process = living[key]
                belongs = self._is_ours(process, ours)
                self._known[key] = process if belongs else None
                ours |= {process.pid} if belongs else set()
            return [found for found in self._known.values() if found is not None and _runs(found)]

    def _is_ours(self, process: psutil.Process, ours: set[int]) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            if process.ppid() in ours:
                return True
            return self.token.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
        return False


def _runs(process: psutil.Process) -> bool:
    """Tell a living process from one that has ended and that nobody has waited for: in a container nobody may, ever."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Meter:
    """Samples a family until it is stopped: CPU-seconds since the start, and the highest sums of memory and disk."""

    def __init__(self, family: Family, folders: Sequence[Path] = ()) -> None:
        self._family, self._folders = family, folders
        self._spent: dict[tuple[int, float], float] = {}  # the last reading stays when the process has ended
        self._peaks = {"pss": 0, "private": 0, "disk": 0}
        self._pss: dict[int, int] = {}
        self._sizes: dict[int, list[str]] = {}  # pages when PSS was read
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._watch, daemon=True)
        self._before, self._started = self._cpu_seconds(), time.perf_counter()
        self._sampler.start()

    def stop(self) -> dict[str, float]:
        """Return seconds of wall and CPU, and peaks in MB: PSS, RSS less what is shared, files under the folders."""
        wall = time.perf_counter() - self._started
        spent = self._cpu_seconds() - self._before
        self._over.set()
        self._sampler.join()
        peaks = {f"peak_{name}_mb": size / _MB for name, size in self._peaks.items()}
        return {"wall_seconds": wall, "cpu_seconds": spent, **peaks}

    def _cpu_seconds(self) -> float:
        for process in self._family.members():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._spent[process.pid, process.create_time()] = times.user + times.system
        return sum(self._spent.values())

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            self._cpu_seconds()
            memory = [self._memory(process.pid) for process in self._family.members()]
            self._note("pss", sum(pss for pss, _ in memory))
            self._note("private", sum(private for _, private in memory))
            self._note("disk", sum(map(disk_usage, self._folders)))

    def _note(self, name: str, size: int) -> None:
        self._peaks[name] = max(self._peaks[name], size)

    def _memory(self, pid: int) -> tuple[int, int]:
        """Return (PSS, RSS - shared) in bytes; nothing for a process that has ended."""
        try:
            sizes = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
            if sizes != self._sizes.get(pid):  # PSS costs milliseconds to read: only where something has moved
                self._pss[pid], self._sizes[pid] = _pss(pid), sizes
        except (OSError, ValueError):
            return 0, 0
        resident, shared = map(int, sizes)
        return self._pss[pid], (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def disk_usage(folder: Path) -> int:
    """Return the bytes of all files below a folder, which may be changing or missing."""
    size = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                is_folder = entry.is_dir(follow_symlinks=False)
                size += disk_usage(Path(entry.path)) if is_folder else entry.stat(follow_symlinks=False).st_size
    return size


def measure(
    command: Sequence[str], folders: Sequence[Path] = (), variables: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run a program that keeps to the protocol above; return its JSON object and what it took.

    Raises:
        RuntimeError: it ended early; the message holds the end of what it said.
    """
    family = Family()
    with tempfile.TemporaryFile("w+") as said:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said, "text": True}
        process = subprocess.Popen(command, env={**family.environment(), **(variables or {})}, **pipes)
        try:
            _line(process, said, READY)
            meter = Meter(family, folders)
            _go_on(process)
            result = _line(process, said)
            taken = meter.stop()
            _go_on(process)
            process.wait()
        finally:
            end(family)
    return json.loads(result), taken


def _line(process: subprocess.Popen[str], said: Any, wanted: str | None = None) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == wanted or (wanted is None and line.startswith("{")):
            return line
    said.seek(0)
    raise RuntimeError(f"the measured program ended with code {process.wait()}:\n{said.read()[-3000:]}")


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def measured(result: Mapping[str, Any] | None = None) -> None:
    """Speak the measured program's side: without a result before the work, with it afterwards."""
    print(READY if result is None else json.dumps(dict(result)), file=sys.__stdout__, flush=True)
    sys.stdin.readline()


def end(family: Family) -> int:
    """Kill what is left of a family and return how many processes that were."""
    left = family.members()
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    return len(left)
