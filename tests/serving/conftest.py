"""A service over the tiny run, and a run whose dataset is gone."""

import shutil

import pytest
from starlette.testclient import TestClient

from raysys.runs import Run
from serving.config import ServeConfig
from serving.gateway import create_app
from serving.service import Service


@pytest.fixture(scope="session")
def service(tiny_run):
    return Service(ServeConfig(k=5, k_max=20).replica(str(tiny_run.path)))


@pytest.fixture
def client(service):
    return TestClient(create_app(service), raise_server_exceptions=False)


@pytest.fixture
def orphan_run(tiny_run, tmp_path):
    """A copy of the tiny run, under its own id, whose dataset is gone."""
    path = shutil.copytree(tiny_run.path, tmp_path / "orphan")
    record = tiny_run.record.model_copy(update={"run_id": "orphan", "dataset": str(tmp_path / "gone")})
    (path / "run.json").write_text(record.model_dump_json())
    return Run.open(path)
