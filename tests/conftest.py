"""One Ray for the whole test run, and small real datasets and runs made with the library itself."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from raysys import cluster

cluster.prepare_environment()
settings.register_profile("busy", deadline=None)  # a busy machine is no failure
settings.load_profile("busy")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # jobs find this python
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on tiny operations cost more than they give


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whatever needs the cluster is marked so, and comes last, so that a quick failure shows early."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")
    items.sort(key=lambda item: item.get_closest_marker("cluster") is not None)


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray with four logical CPUs, started once because it costs seconds; gives the dashboard's address."""
    import ray

    short = tempfile.mkdtemp(prefix="rs", dir="/tmp")  # Ray's socket paths must stay short
    options = {"num_cpus": 4, "include_dashboard": True, "object_store_memory": 512 << 20, "log_to_driver": False}
    try:
        context = ray.init(address="local", _temp_dir=short, logging_level="ERROR", **options)
    except Exception:  # a starved machine can miss Ray's start-up limit once
        ray.shutdown()
        context = ray.init(address="local", _temp_dir=short, logging_level="ERROR", **options)
    yield context.dashboard_url
    ray.shutdown()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def encoded_users():
    """A list to which every pass of a recommender adds how many users it encoded."""
    import torch

    from raysys.model.recommender import Recommender

    def note(module, arguments, found):
        if isinstance(module, Recommender):
            passes.append(len(found.states_BLD))

    passes: list[int] = []
    handle = torch.nn.modules.module.register_module_forward_hook(note)
    yield passes
    handle.remove()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real data sets, or a skip with the reason."""
    root = Path(os.environ.get("RAYSYS_DATA", "data"))
    if not (root / "movielens-100k" / "u.data").is_file():
        pytest.skip(f"no real data under {root}; set RAYSYS_DATA")
    return root


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """A root of datasets and runs that tests share and only add to."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def tiny_dataset(store, ray_cluster):
    """300 users with planted order and ratings, ingested by the real command's code."""
    import raysys

    source = {"format": "synthetic", "num_users": 300, "num_items": 60, "num_tastes": 4, "events_per_user": 12}
    split = {"kind": "leave_one_out"}
    return raysys.ingest({"project": "tiny", "root": str(store), "split": split, **source})


@pytest.fixture(scope="session")
def tiny_run(store, tiny_dataset):
    """A trained run on the tiny dataset: next item and rating."""
    import raysys

    model = {"width": 16, "max_length": 16, "backbone": {"num_blocks": 1}}
    return raysys.train(
        {
            "project": "tiny",
            "root": str(store),
            "model": model,
            "tasks": {"next_item": {}, "rating": {}},
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 10},
            "training": {"epochs": 4, "batch_size": 32, "threads": 1},
            "evaluation": {"resamples": 50},
        }
    )


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command line in this process; gives (exit code, stdout, stderr)."""
    from raysys.__main__ import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["raysys", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
