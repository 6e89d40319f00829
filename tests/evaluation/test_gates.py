"""Shares of experts in a report, against gates that are read user by user and averaged in plain Python."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from raysys.configfile import build
from raysys.data.batches import make_batch
from raysys.data.schema import Split
from raysys.evaluation.evaluate import evaluate
from raysys.evaluation.judge import Judge
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask

TASK_NAMES = ("next_item", "rating", "click")
ALL = frozenset(f"shared {number}" for number in (1, 2, 3, 4))
OWN = frozenset(("shared 1", "shared 2", "own 1"))
BOTH = frozenset(("shared 1", "shared 2", "of rating 1", "of click 1"))
EXPERTS = {
    "mmoe": {"rating": ALL, "click": ALL},
    "ple": {"rating": OWN, "click": OWN},
    "stem": {"rating": BOTH, "click": BOTH},
}


@pytest.fixture
def judge(contract_dataset, judge) -> Judge:
    return Judge.of(contract_dataset, judge.config, judge.max_length)  # fields are read too


@pytest.fixture
def make_network(contract_dataset):
    def make(kind: str, *tasks: str, **nodes: dict) -> MultiTask:
        torch.manual_seed(3)
        node = {"width": 8, "max_length": 6, "backbone": {"num_blocks": 1}, "sharing": {"kind": kind, "hidden": 8}}
        configs = {name: TASKS[name].Config(**nodes.get(name, {})) for name in tasks}
        network = MultiTask(build(ModelConfig, node, "test"), configs, contract_dataset.manifest).eval()
        network.observe(contract_dataset)
        with torch.no_grad():  # gates far from even
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        return network

    return make


@torch.inference_mode()
def expected(judge: Judge, network: MultiTask, split: Split) -> dict[str, dict[str, float]]:
    """Average the gates of targets with a known label, one user after the other."""
    found = defaultdict(list)
    experts = network.recommender.pair_head.sharing.expert_names()
    for row in judge.rows(split):
        events, back = judge.reader.rows(np.array([row])), 0
        while True:
            batch = make_batch(events, split, judge.reader.is_history, judge.max_length, windows_back=back)
            if back and not batch.targets.mask_BC.any():
                break
            shared = network.recommender.pair_head(network.recommender(batch.history), batch.targets)
            for task, gates in shared.gates.items():
                label = batch.targets.labels[network.tasks[task].label][batch.targets.mask_BC].tolist()
                found[task] += [gate for gate, value in zip(gates.tolist(), label, strict=True) if value == value]
            back += 1
    return {
        task: {name: sum(row[at] for row in rows) / len(rows) for at, name in enumerate(experts[task])}
        for task, rows in found.items()
    }


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_shares_are_means_over_the_targets_of_a_task(judge, make_network, kind):
    network = make_network(kind, *TASK_NAMES)
    found = evaluate(judge, network, Split.TEST).gates
    assert {task: set(shares) for task, shares in found.items()} == EXPERTS[kind]
    for task, shares in expected(judge, network, Split.TEST).items():
        assert found[task] == pytest.approx(shares, abs=1e-6), task
        assert sum(found[task].values()) == pytest.approx(1, abs=1e-6)
        assert max(shares.values()) > 1.1 * min(shares.values()), "even gates would hide a mistake"


def test_shares_do_not_depend_on_batches(judge, make_network):
    network = make_network("mmoe", *TASK_NAMES)
    small = replace(judge, config=judge.config.model_copy(update={"batch_size": 7}))
    found, again = (evaluate(one, network, Split.VALID).gates for one in (judge, small))
    for task in ("rating", "click"):
        assert found[task] == pytest.approx(again[task], abs=1e-6)


def test_shares_are_read_in_the_pass_that_predicts(judge, make_network):
    calls = {}
    for kind in ("shared_bottom", "mmoe"):
        network, calls[kind] = make_network(kind, *TASK_NAMES), []
        for part in (network.recommender, network.recommender.pair_head):
            part.register_forward_hook(lambda module, *_, seen=calls[kind]: seen.append(type(module).__name__))
        evaluate(judge, network, Split.TEST)
    assert calls["mmoe"] == calls["shared_bottom"]
    assert calls["mmoe"].count("PairHead") >= len(judge.rows(Split.TEST)) / judge.config.batch_size


def test_there_are_none_without_experts_or_targets(judge, make_network):
    assert evaluate(judge, make_network("shared_bottom", *TASK_NAMES), Split.TEST).gates == {}
    assert evaluate(judge, make_network("mmoe", "next_item"), Split.TEST).gates == {}
    network = make_network("mmoe", *TASK_NAMES, click={"events": ("feedback",)})
    network.tasks["click"].is_labelled.fill_(False)
    assert set(evaluate(judge, network, Split.TEST).gates) == {"rating"}
