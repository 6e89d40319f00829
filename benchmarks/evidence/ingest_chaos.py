"""Kills Ray's workers, then the driver, of an ingestion at random moments; compares the datasets, byte for byte.

Resumable itself: what the output file holds already is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import psutil
from _click_log import click_log
from _meter import Family, end
from ingest import config

RUNS, DRIVER_KILLS = 20, 5
EVENTS, ITEMS, LANES = 3_000_000, 100_000, 50
CODE = "import json, sys, raysys; raysys.ingest(json.loads(sys.argv[1]), sys.argv[2])"
PATIENCE = 20.0
"""Times the undisturbed seconds after which an ingestion hangs."""
_IDLE = "ray::IDLE"
_HELPERS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass(frozen=True)
class Reference:
    """An ingestion that nobody disturbed."""

    node: dict[str, Any]  # its config
    began: float  # seconds after its start when the first task ran; before that Ray starts
    seconds: float  # of the whole process
    fingerprint: str
    contents: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/evidence-ingest_chaos.json"))
    output = parser.parse_args().output
    rows: list[dict[str, Any]] = json.loads(output.read_text())["rows"] if output.is_file() else []
    done = {row["name"] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reference = undisturbed(click_log(EVENTS, ITEMS), root / "reference", LANES, EVENTS)
        print(f"undisturbed: {reference.seconds:.0f} s, {len(reference.contents)} files", flush=True)
        for row in _all(reference, root, done):
            rows.append(row)
            print(row, flush=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps({"rows": rows, "same": sum(row["same"] for row in rows)}, indent=1) + "\n")
    if not all(row["same"] for row in rows):
        sys.exit("a disturbed ingestion ended differently")


def _all(reference: Reference, root: Path, done: set[str]) -> Iterator[dict[str, Any]]:
    for run in range(RUNS):
        if (name := f"workers {run}") not in done:
            yield {"name": name, **kill_workers(reference, root / f"workers{run}", 1 + run % 3, run)}
    old = undisturbed(click_log(EVENTS // 10, ITEMS), root / "old" / "dataset", LANES, EVENTS // 10)
    for run in range(DRIVER_KILLS):
        if (name := f"driver {run}") not in done:
            dataset = root / f"driver{run}"
            if run % 2:
                shutil.copytree(root / "old" / "dataset", dataset)
            yield {"name": name, **kill_driver(reference, dataset, run, old if run % 2 else None)}


def undisturbed(log: Path, dataset: Path, lanes: int, events: int) -> Reference:
    """Ingest a log into so many lanes and note what came out."""
    node = {**config(log), "root": str(dataset.parent), "events_per_shard": -(-events // lanes)}
    started = time.perf_counter()
    with _ingesting(node, dataset) as (process, family):
        began = _first_task(process, family) - started
        code = process.wait()
    seconds = time.perf_counter() - started
    if code:
        sys.exit(f"the undisturbed ingestion ended with code {code}")
    return Reference(node, began, seconds, _fingerprint(dataset), contents(_versions(dataset)[-1]))


def kill_workers(reference: Reference, dataset: Path, kills: int, seed: int) -> dict[str, Any]:
    """Ingest once more while so many of Ray's workers are killed, fewer where it ends too soon.

    Returns: {"killed": titles of the workers, "seconds": of the process, "code": its exit code, "same": whether there
    was a kill and the dataset is the undisturbed one}.
    """
    draw = random.Random(seed)
    length = reference.seconds - reference.began
    moments = sorted(draw.uniform(0.0, 0.8) * length for _ in range(kills))
    started, killed = time.perf_counter(), []
    with _ingesting(reference.node, dataset) as (process, family):
        begun = _first_task(process, family)  # ray.init waits for ever for a worker that is killed before it has spoken
        for moment in moments:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, begun + moment - time.perf_counter()))
            while process.poll() is None and (title := _kill_one_worker(family, draw)) is None:
                time.sleep(0.02)
            killed += [title] if process.poll() is None and title else []
        code = _end_of(process, reference)
    same = code == 0 and bool(killed) and _is_like(reference, dataset)
    shutil.rmtree(dataset, ignore_errors=True)
    return {"killed": killed, "seconds": round(time.perf_counter() - started, 1), "code": code, "same": same}


def kill_driver(reference: Reference, dataset: Path, seed: int, old: Reference | None) -> dict[str, Any]:
    """Kill the process of an ingestion, look at what is left, and ingest again.

    `same`: the kill left no version or only the old one, untouched, and the next ingestion gives the reference.
    """
    busy = reference.seconds - reference.began
    after = random.Random(seed).uniform(0.8 * reference.began, reference.began + 0.8 * busy)
    with _ingesting(reference.node, dataset) as (process, family):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after)
        survived = process.poll() is not None
        process.kill()
        process.wait()
        orphans = len(
            family.members()
        )  # workers may live on for a second or two: the next ingestion begins all the same
        left = [version.name for version in _versions(dataset)]
        whole = _opens(dataset, old)
        with _ingesting(reference.node, dataset) as (again, _):
            code = _end_of(again, reference)
    same = not survived and whole and code == 0 and _is_like(reference, dataset)
    shutil.rmtree(dataset, ignore_errors=True)
    return {"after": round(after, 1), "left": left, "orphans": orphans, "code": code, "same": same}


@contextlib.contextmanager
def _ingesting(node: dict[str, Any], dataset: Path) -> Iterator[tuple[subprocess.Popen[bytes], Family]]:
    """Run an ingestion beside the block; nothing of it outlives the block."""
    family = Family()
    command = [sys.executable, "-c", CODE, json.dumps(node), str(dataset)]
    process = subprocess.Popen(command, env=family.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process, family
    finally:
        end(family)
        process.wait()


def _end_of(process: subprocess.Popen[bytes], reference: Reference) -> int | None:
    """Return the exit code, None where it takes so long that it must hang."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(PATIENCE * reference.seconds)
    return None


def _first_task(process: subprocess.Popen[bytes], family: Family) -> float:
    """Wait until a worker has something to do, or the process has ended; return the moment."""
    while process.poll() is None and all(title == _IDLE for title, _ in _workers(family)):
        time.sleep(0.1)
    return time.perf_counter()


def _workers(family: Family) -> list[tuple[str, psutil.Process]]:
    """Return Ray's workers and what they call themselves."""
    found = []
    for process in family.members():
        with contextlib.suppress(psutil.Error, IndexError):
            title = process.cmdline()[0].strip()
            found += [(title, process)] if title.startswith("ray::") and title not in _HELPERS else []
    return found


def _kill_one_worker(family: Family, draw: random.Random) -> str | None:
    """Kill a worker, a busy one if there is one; return what it called itself."""
    workers = _workers(family)
    busy = [found for found in workers if found[0] != _IDLE]
    if not workers:
        return None
    title, process = draw.choice(busy or workers)
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return None
    return title


def contents(version: Path) -> dict[str, str]:
    """Return the sha256 of every file of a version by its path; the version's own number does not count."""
    files = sorted(path for path in version.rglob("*") if path.is_file())
    names = [str(path.relative_to(version)).replace(version.name, "VERSION") for path in files]
    return {name: hashlib.sha256(_bytes(path)).hexdigest() for name, path in zip(names, files, strict=True)}


def _bytes(path: Path) -> bytes:
    if path.name != "manifest.json":
        return path.read_bytes()
    return json.dumps({**json.loads(path.read_text()), "version": None}).encode()


def _versions(dataset: Path) -> list[Path]:
    from raysys.data.dataset import versions

    return versions(dataset)


def _fingerprint(dataset: Path) -> str:
    from raysys.data.dataset import Dataset

    return Dataset.open(dataset).manifest.fingerprint


def _is_like(reference: Reference, dataset: Path) -> bool:
    newest = _versions(dataset)[-1]
    return _fingerprint(dataset) == reference.fingerprint and contents(newest) == reference.contents


def _opens(dataset: Path, old: Reference | None) -> bool:
    """Tell whether the dataset opens as the old one, or says that there is none."""
    from raysys.data.dataset import Dataset
    from raysys.errors import UserError

    if old is not None:
        return len(_versions(dataset)) == 1 and _is_like(old, dataset)
    try:
        Dataset.open(dataset)
    except UserError:
        return not _versions(dataset)
    return False


if __name__ == "__main__":
    main()
