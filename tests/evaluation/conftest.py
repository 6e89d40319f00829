import numpy as np
import pytest
import torch

from raysys.configfile import build
from raysys.contracts.conftest import contract_dataset, contract_reader  # noqa: F401
from raysys.evaluation.judge import Judge
from raysys.evaluation.protocol import EvaluationConfig
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask

MAX_LENGTH = 6
CONFIG = EvaluationConfig(k=(3, 10), batch_size=32, resamples=40)


@pytest.fixture(scope="session")
def make_network(contract_dataset):  # noqa: F811
    """Make an untrained model over the generated dataset: evaluation asks of it only that it scores."""

    def make(*tasks: str) -> MultiTask:
        torch.manual_seed(3)
        model = build(ModelConfig, {"width": 8, "max_length": MAX_LENGTH, "backbone": {"num_blocks": 1}}, "test")
        configs = {name: TASKS[name].Config() for name in tasks}
        network = MultiTask(model, configs, contract_dataset.manifest).eval()
        with torch.no_grad():  # far from its start, so that no two scores are nearly equal
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        return network

    return make


@pytest.fixture(scope="session")
def network(make_network) -> MultiTask:
    """A model with both tasks."""
    return make_network("next_item", "rating")


@pytest.fixture(scope="session")
def judge(contract_dataset, contract_reader) -> Judge:  # noqa: F811
    """What evaluates it."""
    return Judge(contract_dataset, contract_reader, CONFIG, MAX_LENGTH, torch.device("cpu"))


@pytest.fixture(scope="session")
def user_lines(contract_reader, contract_dataset) -> list[list[dict]]:  # noqa: F811
    """Every user's events as plain dicts, in order."""
    rows = contract_reader.rows(np.arange(contract_dataset.manifest.num_users))
    return [
        [
            {"item": int(rows.items[at]), "mark": int(rows.marks[at]), "rating": float(rows.labels["rating"][at])}
            for at in range(rows.offsets[row], rows.offsets[row + 1])
        ]
        for row in range(len(rows.users))
    ]
