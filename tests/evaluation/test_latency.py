"""How long one answer takes: of more work more, whatever else the process was set to."""

import time

import pytest
import torch

from raysys.configfile import build
from raysys.errors import UserError
from raysys.evaluation.latency import answer_latency
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask


def test_a_deeper_model_takes_longer(judge, contract_dataset):
    def latency(num_blocks: int) -> float:
        node = {"width": 32, "max_length": 6, "backbone": {"num_blocks": num_blocks}}
        tasks = {name: TASKS[name].Config() for name in ("next_item", "rating")}
        network = MultiTask(build(ModelConfig, node, "test"), tasks, contract_dataset.manifest)
        started = time.perf_counter()
        found = answer_latency(judge, network)
        assert 0 < found < 1000 * (time.perf_counter() - started), "30 answers, several times each"
        return found

    assert latency(8) > 1.5 * latency(1)


def test_the_scores_of_tasks_belong_to_an_answer(judge, make_network):
    asked = []
    network = make_network("next_item", "rating")
    scorer = network.pair_scorers()["rating"]
    logits = scorer.logits

    def listening(encoded, targets):
        asked.append(targets.items_BC.shape)
        return logits(encoded, targets)

    scorer.logits = listening
    answer_latency(judge, network)
    assert set(asked) == {(1, max(judge.config.k))}


def test_the_threads_of_the_process_stay_as_they_were(judge, network):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        answer_latency(judge, network)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_retrieves_nothing_gives_no_answer(judge, make_network):
    with pytest.raises(UserError, match="none of rating retrieves"):
        answer_latency(judge, make_network("rating"))
