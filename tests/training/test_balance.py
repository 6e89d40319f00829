"""Weightings in the loop: what they remember survives interruptions, and what they do is in the history."""

import subprocess
import sys

import pytest
import torch
from test_loop import Interrupt, interrupt_at
from test_step import TWO_RANKS

from raysys.configfile import dump_yaml
from raysys.errors import UserError
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.meter import BalanceMeter
from raysys.training.start import build_network
from raysys.weighting import WEIGHTINGS

pytestmark = pytest.mark.thorough  # seconds each: not before every commit

OWN = ("loss", "weight/", "cosine/")
GRAM = {"gradnorm", "gramian"}
WEIGHTED = [{"kind": kind} for kind in WEIGHTINGS if kind != "gramian"]
WEIGHTED += [{"kind": "gramian", "method": "gradvac", "smoothing": 0.5}]


def _loop(config, dataset, directory):
    if config.weighting.kind == "gramian":
        pytest.importorskip("torchjd")
    directory.mkdir(exist_ok=True)
    return TrainingLoop(config, dataset, build_network(config, dataset), directory, show=False)


def _own(line):
    return {name: value for name, value in line.items() if name.startswith(OWN)}


@pytest.mark.parametrize("weighting", WEIGHTED, ids=lambda node: node["kind"])
def test_every_weighting_learns_and_resumes_byte_for_byte(config_of, contract_dataset, tmp_path, weighting):
    training = {"epochs": 4, "batch_size": 32, "threads": 1, "checkpoint_every": 2}
    config = config_of(training=training, weighting=weighting)
    expected = _loop(config, contract_dataset, tmp_path / "whole").run().network.state_dict()
    broken = _loop(config, contract_dataset, tmp_path / "broken")
    interrupt_at(broken, 23)  # within the last epoch, after a checkpoint
    with pytest.raises(Interrupt):
        broken.run()
    found = _loop(config, contract_dataset, tmp_path / "broken").run().network.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    whole, resumed = read_history(tmp_path / "whole"), read_history(tmp_path / "broken")
    assert [_own(line) for line in whole] == [_own(line) for line in resumed]
    assert whole[-1]["loss/next_item"] < whole[0]["loss/next_item"]
    for line in whole:
        assert {"weight/next_item", "weight/rating"} <= set(line)
        assert ("cosine/next_item|rating" in line) == (weighting["kind"] in GRAM)


def test_the_history_names_no_weight_as_a_metric(config_of, contract_dataset, tmp_path):
    loop = _loop(config_of(weighting={"kind": "gradnorm"}), contract_dataset, tmp_path / "run")
    loop.run()
    line = read_history(tmp_path / "run")[0]
    assert loop.monitor(line) == "next_item.ndcg@10"
    assert loop.monitor(_own(line)) is None
    assert -1 <= line["cosine/next_item|rating"] <= 1
    assert line["weight/next_item"] + line["weight/rating"] == pytest.approx(2.0)


def test_cosines_are_means_over_the_steps_that_have_them():
    meter = BalanceMeter(("a", "b", "c"))
    meter.add_gram(torch.tensor([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    meter.add_gram(torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    for weights in ([1.0, 0.0, 2.0], [0.0, 0.0, 4.0]):
        meter.add_weights(torch.tensor(weights))
    assert meter.take() == {"weight/a": 0.5, "weight/b": 0.0, "weight/c": 3.0, "cosine/a|b": 0.5}
    meter.add_weights(torch.ones(3))
    assert meter.take() == {"weight/a": 1.0, "weight/b": 1.0, "weight/c": 1.0}


def test_learned_weights_leave_the_norm_of_the_network_alone(config_of, contract_dataset, tmp_path):
    config = config_of(weighting={"kind": "uncertainty"}, optimizer={"clip_norm": 0.1})
    loop = _loop(config, contract_dataset, tmp_path / "run")
    loop.learner.weighting.begun_T.fill_(True)  # from log variances of 0: gradients of several
    order = loop.feed.order(0)[:1]
    for parts in loop.feed.batches(0, order, 0):
        loop.learner.step(0, parts)
    for parameters in (loop.learner.parameters, loop.learner.weighting_parameters):
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        assert 0.099 < norm < 0.1001


def test_comparing_gradients_of_frozen_states_is_refused(config_of, contract_dataset, tmp_path):
    config = config_of(adapt={"kind": "heads"}, weighting={"kind": "gradnorm"})
    with pytest.raises(UserError, match=r"weighting: gradnorm .*adapt: heads"):
        _loop(config, contract_dataset, tmp_path / "run").run()


@pytest.mark.process
@pytest.mark.parametrize("weighting", [{"kind": "uncertainty"}, {"kind": "gramian", "method": "pcgrad"}], ids=str)
def test_two_ranks_weigh_as_one(config_of, contract_dataset, tmp_path, weighting):
    config = config_of(
        optimizer={"kind": "sgd", "learning_rate": 0.1, "warmup_steps": 0},
        training={"epochs": 2, "batch_size": 24, "threads": 1},
        weighting=weighting,
    )
    _loop(config, contract_dataset, tmp_path / "one").run()
    (tmp_path / "config.yaml").write_text(dump_yaml(config.model_dump(mode="json")))
    (tmp_path / "two").mkdir()
    ranks = [subprocess.Popen([sys.executable, "-c", TWO_RANKS, str(tmp_path), str(rank)]) for rank in (0, 1)]
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    for first, second in zip(read_history(tmp_path / "one"), read_history(tmp_path / "two"), strict=True):
        assert _own(first) == pytest.approx(_own(second), rel=1e-3)
