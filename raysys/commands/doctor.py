"""raysys doctor: what this machine has, whether Ray starts, what is missing and how to mend it."""

import os
import platform
import shutil
import sys
import time
from typing import Annotated, Any

import typer

from raysys.commands.options import AsJson, Root, print_json

app = typer.Typer(add_completion=False)
_PACKAGES = ("raysys", "ray", "torch", "transformers", "pyarrow", "optuna", "pandas", "pydantic", "fastapi", "uvicorn")
_MIN_MEMORY = 4 << 30
_MIN_DISK = 2 << 30
_MIN_SHM = 1 << 30


@app.command()
def doctor(
    root: Root = None,
    start_ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Start a Ray here and run a task on it.")] = True,
    json: AsJson = False,
) -> None:
    """Check versions, cores, memory, disk, GPU and Ray; exit 1 when something must be mended."""
    from rich.console import Console

    from raysys.configfile import store_root

    checks = [*_machine(root or store_root()), *_packages(), _gpu(), *([_ray()] if start_ray else [])]
    if json:
        print_json(checks)
    else:
        console = Console(highlight=False)
        for check in checks:
            mark = "[green]ok[/]" if check["ok"] else "[red]mend[/]"
            console.print(f"{mark:>15}  {check['name']}: {check['found']}", soft_wrap=True)
            if not check["ok"]:
                console.print(f"      → {check['mend']}", soft_wrap=True)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _machine(root: str) -> list[dict[str, Any]]:
    python = platform.python_version()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    existing = root
    while not os.path.exists(existing):
        existing = os.path.dirname(os.path.abspath(existing))
    disk = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    checks = [
        _check("python", python, sys.version_info >= (3, 11), "install Python 3.11, 3.12 or 3.13"),
        _check("cores", str(os.cpu_count()), True, ""),
        _check("memory", _gib(memory), memory >= _MIN_MEMORY, "4 GiB or more: Ray alone takes one"),
        _check("disk", f"{_gib(disk)} free at {existing}", disk >= _MIN_DISK, "free 2 GiB, or give another --root"),
        _check("store", existing, writable, f"{existing} cannot be written; give another --root or set RAYSYS_ROOT"),
    ]
    if os.path.isdir("/dev/shm"):
        shm = shutil.disk_usage("/dev/shm").free
        mend = "give the container more shared memory (docker run --shm-size=2g): Ray's object store lives there"
        checks.append(_check("shared memory", _gib(shm), shm >= _MIN_SHM, mend))
    return checks


def _packages() -> list[dict[str, Any]]:
    import importlib.metadata

    checks = []
    for name in _PACKAGES:
        try:
            checks.append(_check(name, importlib.metadata.version(name), True, ""))
        except importlib.metadata.PackageNotFoundError:
            mend = "pip install 'ray[train,tune,serve]'" if name in ("fastapi", "uvicorn") else f"pip install {name}"
            checks.append(_check(name, "missing", False, mend))
    return checks


def _gpu() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return _check("gpu", "none: training runs on the CPU", True, "")
    names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return _check("gpu", f"{', '.join(names)}; use it with training.gpu: true", True, "")


def _ray() -> dict[str, Any]:
    from raysys import cluster

    started = time.perf_counter()
    try:
        with cluster.connected():
            import ray

            answer = ray.get(ray.remote(lambda: 42).remote(), timeout=60)
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except Exception as error:
        mend = (
            "look into /tmp/ray/session_latest/logs; a firewall, a full disk or too little memory are the usual causes"
        )
        return _check("ray", f"does not start: {error}", False, mend)
    seconds = time.perf_counter() - started
    found = f"started and ran a task in {seconds:.1f} s, {resources.get('CPU', 0):.0f} logical CPUs"
    return _check("ray", found, answer == 42, "")


def _check(name: str, found: str, ok: bool, mend: str) -> dict[str, Any]:
    return {"name": name, "found": found, "ok": ok, "mend": mend}


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
