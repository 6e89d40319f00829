"""Ingestion without Ray: the passes run one task after the other, in the test's process."""

import pytest

from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset
from raysys.data.ingest import ingest
from raysys.data.line import in_process


@pytest.fixture
def ingest_here(tmp_path):
    """Ingest a config given by keywords into a dataset directory of this test's own."""

    def run(output: str = "dataset", append: bool = False, each=in_process, **node) -> Dataset:
        config = build(IngestConfig, {"project": "p", **node}, "test.yaml")
        return ingest(config, tmp_path / output, append, each)

    return run
