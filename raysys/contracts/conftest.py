"""A small generated dataset, made by the passes of an ingestion in this process: contracts need no Ray."""

import pytest

from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.reader import ShardReader


@pytest.fixture(scope="session")
def contract_dataset(tmp_path_factory) -> Dataset:
    """200 users with tastes and everything that may come of showing them something, in two shards."""
    size = {"num_users": 200, "num_items": 40, "num_tastes": 4, "events_per_user": 10}
    source = {"format": "synthetic", "table": "feedback", **size}
    node = {"project": "contracts", **source, "split": {"kind": "leave_one_out"}, "events_per_shard": 1200}
    config = build(IngestConfig, node, "contracts")
    return ingest(config, tmp_path_factory.mktemp("contracts") / "dataset", each=in_process)


@pytest.fixture(scope="session")
def contract_reader(contract_dataset) -> ShardReader:
    """The dataset's shards, mapped."""
    return ShardReader(contract_dataset)
