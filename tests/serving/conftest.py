"""A service over the tiny run, and a run whose dataset is gone."""

import asyncio
import shutil

import pytest
from shop_log import shop_run
from starlette.testclient import TestClient

import raysys
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.runs import Run
from serving.config import ServeConfig
from serving.http.gateway import Gateway
from serving.service import Service
from serving.stores import make_store
from serving.users.seeding import seed


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The run of the other tests, made without Ray: only those that deploy need it."""
    root = tmp_path_factory.mktemp("served")
    source = {"format": "synthetic", "num_users": 300, "num_items": 60, "num_tastes": 4, "events_per_user": 12}
    node = {"project": "tiny", "root": str(root), "split": {"kind": "leave_one_out"}, **source}
    dataset = ingest(build(IngestConfig, node, "tiny"), root / "datasets" / "tiny", each=in_process)
    model = {"width": 16, "max_length": 16, "backbone": {"num_blocks": 1}}
    return raysys.train(
        {
            "project": "tiny",
            "root": str(root),
            "dataset": str(dataset.path),
            "model": model,
            "tasks": {"next_item": {}, "rating": {}},
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 10},
            "training": {"epochs": 4, "batch_size": 32, "threads": 1},
            "evaluation": {"resamples": 50},
        }
    )


@pytest.fixture(scope="session")
def serve():
    """A function that returns a service over a run, with a store that knows the run's users; asks for no keys."""
    return _serve


def _serve(run, root, **settings):
    config = ServeConfig(**{"access": {"enabled": False}, **settings}).with_places(str(root), "tests")
    seed(run, config)
    return asyncio.run(Service.load(config.replica(str(run.path)).model_dump(), make_store(config.store)))


@pytest.fixture(scope="session")
def service(tiny_run, tmp_path_factory):
    return _serve(tiny_run, tmp_path_factory.mktemp("serving"), k=5, k_max=20)


@pytest.fixture
def client(service):
    return TestClient(Gateway(service), raise_server_exceptions=False)


@pytest.fixture
def orphan_run(tiny_run, tmp_path):
    """A copy of the tiny run, under its own id, whose dataset is gone."""
    path = shutil.copytree(tiny_run.path, tmp_path / "orphan")
    record = tiny_run.record.model_copy(update={"run_id": "orphan", "dataset": str(tmp_path / "gone")})
    (path / "run.json").write_text(record.model_dump_json())
    return Run.open(path)


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A run with features of items, a context, and tasks of every kind that serving knows."""
    return shop_run(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def shop_client(shop, tmp_path_factory):
    """Ask the shop's run, served with the given settings; equal settings are served once."""
    clients = {}

    def get(**settings):
        key = repr(sorted(settings.items()))
        if key not in clients:
            served = _serve(shop, tmp_path_factory.mktemp("shop_state"), k=5, k_max=60, **settings)
            clients[key] = TestClient(Gateway(served), raise_server_exceptions=False)
        return clients[key]

    return get
