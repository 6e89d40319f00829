from pathlib import Path

import pytest
import yaml

from raysys.contracts.conftest import contract_dataset  # noqa: F401


@pytest.fixture(scope="session")
def base_node(contract_dataset, tmp_path_factory) -> dict:  # noqa: F811
    """A train config whose own values are good: others do worse from the first epoch on."""
    return {
        "project": "contracts",
        "root": str(tmp_path_factory.mktemp("store")),
        "dataset": str(contract_dataset.path),
        "model": {"width": 16, "max_length": 12, "dropout": 0.0, "backbone": {"num_blocks": 1}},
        "tasks": {"next_item": {}, "rating": {"dropout": 0.0}},
        "weighting": {"kind": "fixed", "weights": {"rating": 0.2}},
        "optimizer": {"learning_rate": 0.02, "warmup_steps": 0},
        "training": {"epochs": 3, "batch_size": 32},
        "evaluation": {"k": [5, 10], "resamples": 20},
    }


@pytest.fixture(scope="session")
def tune_node(base_node) -> dict:
    """A search around the base, with the base inside."""
    return {
        "base": base_node,
        "space": {
            "weighting.weights.rating": {"kind": "float", "low": 0.01, "high": 1.0, "log": True},
            "optimizer.learning_rate": {"kind": "float", "low": 0.00001, "high": 0.02, "log": True},
            "model.dropout": {"kind": "choice", "values": [0.0, 0.2]},
        },
        "metric": "next_item.ndcg@10",
        "num_trials": 4,
        "seed": 1,
    }


@pytest.fixture
def tune_file(tune_node, base_node, tmp_path):
    """Write the search as a tune.yaml beside its base.yaml; keyword arguments replace whole nodes."""

    def write(**nodes) -> Path:
        base = {**base_node, "root": str(tmp_path / "store")}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        (tmp_path / "tune.yaml").write_text(yaml.safe_dump({**tune_node, "base": "base.yaml", **nodes}))
        return tmp_path / "tune.yaml"

    return write
