"""Bulk recommendation is killed, its driver and its workers, and the files are the same byte for byte."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from raysys.bulk.recommend import recommend_users

pytestmark = [pytest.mark.cluster, pytest.mark.process]

USERS_PER_PART = 2
PARTS = 150


@pytest.fixture(scope="module")
def undisturbed(tiny_run, tmp_path_factory) -> dict[str, bytes]:
    """The files of a call that nobody disturbs."""
    path = tmp_path_factory.mktemp("undisturbed") / "lists"
    recommend_users(tiny_run, str(path), "all", 5, users_per_part=USERS_PER_PART)
    return {file.name: file.read_bytes() for file in path.iterdir()}


def start(run, output: Path) -> subprocess.Popen:
    """Start the command as a user would, on the Ray of this session."""
    line = [sys.executable, "-m", "raysys", "recommend", str(run.path), "-o", str(output), "--users", "all", "--k", "5"]
    variables = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    line += ["--users-per-part", str(USERS_PER_PART)]
    return subprocess.Popen(line, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def parts(output: Path) -> dict[str, tuple[int, int]]:
    """Return the parts that are there, and what tells a file from another one under its name."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in output.glob("part-*.parquet")}


def wait_for_parts(process: subprocess.Popen, output: Path, count: int) -> None:
    """Wait until so many parts are there."""
    deadline = time.monotonic() + 120
    while len(parts(output)) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no parts within two minutes"
        time.sleep(0.002)


def settled(output: Path) -> dict[str, tuple[int, int]]:
    """Return the parts when no worker of a killed driver writes any more."""
    found: dict[str, tuple[int, int]] | None = None
    while found != (found := parts(output)):
        time.sleep(2)
    return found


def contents(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in output.iterdir()}


def test_a_killed_driver_goes_on_where_it_was(tiny_run, undisturbed, tmp_path):
    output = tmp_path / "lists"
    process = start(tiny_run, output)
    wait_for_parts(process, output, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = settled(output)
    assert not (output / "_manifest.json").exists(), "the kill came after the end"
    assert 5 <= len(left) < PARTS
    (output / ".part-000149.parquet.x.partial").write_bytes(b"half")  # of a worker that died while it wrote

    again = start(tiny_run, output)
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert f"{len(left)} of {PARTS} parts are there; going on" in said
    assert contents(output) == undisturbed
    assert left.items() <= parts(output).items(), "a part was written twice"


def test_a_killed_worker_is_replaced(tiny_run, undisturbed, tmp_path):
    output = tmp_path / "lists"
    process = start(tiny_run, output)
    wait_for_parts(process, output, 5)
    killed = kill_a_worker()
    early = parts(output)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert killed, "no worker was there to be killed"
    assert contents(output) == undisturbed
    assert early.items() <= parts(output).items(), "a part was written twice"


def kill_a_worker() -> str | None:
    """Kill one of the actors of this session's Ray that run the model; return what it called itself."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            title = process.cmdline()[0]
            if title.startswith("ray::MapWorker"):
                process.kill()
                return title
    return None
