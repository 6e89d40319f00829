from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile, rmtree

import numpy as np
import pytest
import torch

from raysys.config import RunConfig
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.reader import ShardReader
from raysys.errors import UserError
from raysys.runs import RECORD, Run, RunRecord
from raysys.training.checkpoint import save_weights
from raysys.training.start import build_network

DAYS = {"before": range(30), "after": range(10, 45)}  # who has events
JANUARY = 1_767_225_600


@pytest.fixture
def datasets(tmp_path):
    """Two datasets with some users in common; both have users that training does not meet."""
    made = {}
    for name, users in DAYS.items():
        rows = [f"u{user},i{(user + at) % 20},{JANUARY + at}" for user in users for at in range(3 + user % 7)]
        rows += [f"late-{name}-{user},i0,{JANUARY + 40 * 86_400}" for user in range(3)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
        split = {"kind": "time", "valid_from": "2026-02-01", "test_from": "2026-03-01"}
        source = {
            "path": str(tmp_path / f"{name}.csv"),
            "format": "delimited",
            "event": "view",
            "columns": {"timestamp": "timestamp"},
        }
        node = {"project": name, "sources": [source], "split": split}
        made[name] = ingest(build(IngestConfig, node, name), tmp_path / name, each=in_process)
    return made


def _config(dataset, kind, **more):
    model = {"width": 8, "max_length": 8, "backbone": {"kind": kind}}
    return build(RunConfig, {"project": "p", "dataset": str(dataset.path), "model": model, **more}, "test")


def _parent(dataset, kind, path: Path) -> Run:
    config = _config(dataset, kind)
    path.mkdir()
    save_weights(build_network(config, dataset), path / "model.safetensors")
    copyfile(dataset.path / "vocabulary.arrow", path / "vocabulary.arrow")
    facts = {"run_id": "r", "project": "p", "created": datetime.now(UTC), "seconds": 1, "epochs": 1, "best_epoch": 1}
    facts |= {"steps": 1, "parent": None, "parameters": 1, "valid": {}, "test": {}, "versions": {}}
    manifest = dataset.manifest
    facts |= {"dataset": str(dataset.path), "dataset_version": "v0001", "dataset_fingerprint": manifest.fingerprint}
    (path / RECORD).write_text(RunRecord(**facts).model_dump_json())
    return Run.open(path)


def _ids(dataset):
    return ShardReader(dataset).user_ids(np.arange(dataset.manifest.num_users)).to_pylist()


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_user_vectors_go_by_user_id(kind, datasets, tmp_path):
    parent = _parent(datasets["before"], kind, tmp_path / "run")
    old = build_network(_config(datasets["before"], kind), datasets["before"]).recommender.backbone
    config = _config(datasets["after"], kind, start_from=str(parent.path), seed=1)
    fresh = build_network(config.model_copy(update={"start_from": None}), datasets["after"]).recommender.backbone
    own = build_network(config, datasets["after"]).recommender.backbone
    before, now = _ids(datasets["before"]), _ids(datasets["after"])
    assert len(set(before) & set(now)) == 20
    for row, user in enumerate(now):
        wanted = old.users.weight[before.index(user)] if user in before else fresh.users.weight[row]
        assert torch.equal(own.users.weight[row], wanted), user
        assert own.users.trained_U[row] == user.startswith("u")
    if kind == "lightgcn":
        assert torch.equal(own.graph.items_E, fresh.graph.items_E)


def test_user_vectors_of_a_lost_dataset_are_refused(datasets, tmp_path):
    parent = _parent(datasets["before"], "mf", tmp_path / "run")
    rmtree(datasets["before"].path)
    with pytest.raises(UserError, match=r"start_from: r has a vector for every user of .*before.*, which is gone"):
        build_network(_config(datasets["after"], "mf", start_from=str(parent.path)), datasets["after"])


def test_a_table_of_positions_is_no_table_of_items(datasets, tmp_path):
    """20 items and two special ones: as many rows as there are positions."""
    model = {"width": 8, "max_length": 22, "backbone": {"kind": "sasrec"}}
    parent = _parent(datasets["before"], "sasrec", tmp_path / "run")
    config = build(RunConfig, {"project": "p", "dataset": str(datasets["before"].path), "model": model}, "test")
    torch.manual_seed(0)
    network = build_network(config, datasets["before"])
    save_weights(network, parent.path / "model.safetensors")
    again = build_network(
        config.model_copy(update={"start_from": str(parent.path), "dataset": str(datasets["after"].path), "seed": 5}),
        datasets["after"],
    )
    wanted = network.recommender.backbone.position.weight
    assert datasets["after"].manifest.num_items == 20
    assert torch.equal(again.recommender.backbone.position.weight, wanted)
