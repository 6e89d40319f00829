"""A small generated dataset, made by the tasks of an ingestion in this process: contracts need no Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raysys.configfile import build
from raysys.data.batches import ShardReader
from raysys.data.catalog import build_catalog
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, Manifest, commit
from raysys.data.files import read_arrow, write_arrow
from raysys.data.passes import EncodeLanes, GatherLanes, Plan, ReadPieces, format_of
from raysys.data.vocabulary import Vocabulary, merge_items

EVENT_NAMES = ("interaction",)


@pytest.fixture(scope="session")
def contract_dataset(tmp_path_factory) -> Dataset:
    """200 users with planted order and ratings."""
    source = {"format": "synthetic", "num_users": 200, "num_items": 40, "num_tastes": 4, "events_per_user": 10}
    config = build(IngestConfig, {"project": "contracts", **source}, "contracts")
    path: Path = tmp_path_factory.mktemp("contracts") / "v0001"
    form = format_of(config.sources[0])
    plan = Plan(config, tuple((0, piece) for piece in form.pieces()), form.labels, 2, path, 2**62)
    tables = list(ReadPieces(plan)(pa.table({"piece": [0]})))
    GatherLanes(plan)(pa.concat_tables(tables))
    items = merge_items([read_arrow(part) for part in sorted((plan.staging / "items").iterdir())])
    Vocabulary(items["item_id"].combine_chunks()).save(path / "vocabulary.arrow")
    build_catalog(items, None).save(path / "catalog.arrow")
    encoded = EncodeLanes(plan, EVENT_NAMES)(pa.table({"lane": [0, 1]}))
    parts = [json.loads(text) for text in encoded["summary"].to_pylist()]
    rows = [read_arrow(part) for part in sorted((plan.staging / "rows").iterdir())]
    write_arrow(pa.concat_tables(rows), path / "rows.arrow")
    label_sum, label_count = np.sum([part["labels"]["rating"] for part in parts], axis=0)
    return commit(
        path,
        Manifest(
            project="contracts",
            version="v0001",
            fingerprint="contracts",
            num_users=sum(part["users"] for part in parts),
            num_items=items.num_rows,
            num_events=sum(part["events"] for part in parts),
            events_by_split={mark: sum(p["marks"][mark] for p in parts) for mark in ("train", "valid", "test")},
            event_names=EVENT_NAMES,
            history=EVENT_NAMES,
            labels=form.labels,
            label_means={"rating": float(label_sum / label_count)},
            shards=tuple(part["shard"] for part in parts),
            time_range=None,
            rows=sum(part["events"] for part in parts),
            kept=sum(part["events"] for part in parts),
            rejected={},
            config={},
        ),
    )


@pytest.fixture(scope="session")
def contract_reader(contract_dataset) -> ShardReader:
    """The dataset's shards, mapped."""
    return ShardReader(contract_dataset)
