import pytest

from raysys.config import RunConfig
from raysys.configfile import build
from raysys.contracts.conftest import contract_dataset, contract_reader  # noqa: F401

DRY = {"dropout": 0.0}
"""Draws of dropout differ between ranks: without it several do what one does."""


@pytest.fixture
def config_of(contract_dataset):  # noqa: F811
    """Make a small config for the generated dataset; keyword arguments replace whole nodes."""

    def make(**nodes) -> RunConfig:
        node = {
            "project": "contracts",
            "dataset": str(contract_dataset.path),
            "model": {"width": 16, "max_length": 12, "dropout": 0.0, "backbone": {"num_blocks": 1}, "sharing": DRY},
            "tasks": {"next_item": {}, "rating": {"dropout": 0.0}},
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 5},
            "training": {"epochs": 3, "batch_size": 32, "threads": 1},
            "evaluation": {"k": [10], "resamples": 20},
        }
        return build(RunConfig, {**node, **nodes}, "test")

    return make
