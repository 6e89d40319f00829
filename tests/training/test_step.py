import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raysys.configfile import dump_yaml
from raysys.errors import UserError
from raysys.training.feed import Feed
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.meter import LossMeter
from raysys.training.parallel import Parallel
from raysys.training.start import build_network
from raysys.weighting import WEIGHTINGS, FixedWeighting

pytestmark = pytest.mark.thorough  # seconds each: not before every commit

ALONE = Parallel(0, 1, torch.device("cpu"))
PLAIN = {"epochs": 2, "batch_size": 32, "threads": 1}


def _loop(config, dataset, directory):
    directory.mkdir(exist_ok=True)
    return TrainingLoop(config, dataset, build_network(config, dataset), directory, show=False)


def _steps(config, dataset, directory, count=None):
    """Take the first steps of a run; returns its losses and gradients by step, and the weights at the end."""
    loop = _loop(config, dataset, directory)
    loop.network.train()
    order = loop.feed.order(0)[:count]
    losses, gradients = [], []
    for step, parts in enumerate(loop.feed.batches(0, order, 0)):
        losses.append(loop.learner.step(step, parts))
        gradients.append([p.grad.clone() for p in loop.learner.parameters])
    return torch.stack(losses), gradients, loop.network.state_dict()


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax", "bce"])
@pytest.mark.parametrize("parts", [2, 4, 40])  # 40: more parts than users, some are without any
def test_a_step_in_parts_is_the_step(config_of, contract_dataset, tmp_path, loss, parts):
    tasks = {"next_item": {"loss": {"kind": loss}}, "rating": {"dropout": 0.0}}
    optimizer = {"kind": "sgd", "learning_rate": 0.1, "warmup_steps": 0}
    nodes = {"tasks": tasks, "optimizer": optimizer}
    cut = config_of(**nodes, training={**PLAIN, "accumulate": parts})
    expected = _steps(config_of(**nodes, training=PLAIN), contract_dataset, tmp_path / "whole")
    found = _steps(cut, contract_dataset, tmp_path / "cut")
    assert torch.allclose(expected[0], found[0], rtol=1e-5)
    for first, second in zip(expected[1][0], found[1][0], strict=True):
        assert torch.allclose(first, second, rtol=1e-4, atol=1e-6)
    for name, tensor in expected[2].items():
        assert torch.allclose(tensor, found[2][name], rtol=1e-3, atol=1e-5), name


def test_parts_hold_every_user_once_and_histories_of_like_length(config_of, contract_dataset, contract_reader):
    feeds = [
        Feed(config_of(training={**PLAIN, "accumulate": count}), contract_dataset, contract_reader, ALONE)
        for count in (1, 4)
    ]
    whole, cut = (list(feed.batches(0, feed.order(0), 7)) for feed in feeds)
    for (batch,), parts in zip(whole, cut, strict=True):
        assert len(parts) == 4
        users = torch.cat([part.history.users_B for part in parts])
        assert sorted(users.tolist()) == sorted(batch.history.users_B.tolist())
        padding = sum(part.history.mask_BL.numel() for part in parts)
        assert padding <= batch.history.mask_BL.numel()
        assert {part.key for part in parts} == {batch.key}
    assert len({batch.key for (batch,) in whole}) == len(whole)


def test_every_step_has_its_own_key_and_ranks_share_it(config_of, contract_dataset, contract_reader):
    config = config_of(training=PLAIN)
    feeds = [Feed(config, contract_dataset, contract_reader, Parallel(r, 2, torch.device("cpu"))) for r in (0, 1)]
    order = feeds[0].order(0)
    first, second = ([parts[0] for parts in feed.batches(0, order, 0)] for feed in feeds)
    assert [batch.key for batch in first] == [batch.key for batch in second]
    for one, other, positions in zip(first, second, order, strict=True):
        users = torch.cat([one.history.users_B, other.history.users_B])
        assert sorted(users.tolist()) == sorted(feeds[0].rows[positions].tolist())


class Balanced(FixedWeighting):
    class Config(FixedWeighting.Config):
        kind: str = "balanced"


def test_a_weighting_that_sees_whole_steps_refuses_parts(config_of, monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "balanced", Balanced)
    config_of(weighting={"kind": "balanced"})
    with pytest.raises(UserError, match=r"training.accumulate: 2 with weighting balanced.*accumulate: 1"):
        config_of(weighting={"kind": "balanced"}, training={**PLAIN, "accumulate": 2})


def test_bfloat16_changes_little_and_leaves_weights_alone(config_of, contract_dataset, tmp_path):
    exact = _steps(config_of(training=PLAIN), contract_dataset, tmp_path / "f32", 4)
    short = _steps(config_of(training={**PLAIN, "precision": "bfloat16"}), contract_dataset, tmp_path / "bf16", 4)
    assert not torch.equal(exact[0], short[0])
    assert torch.allclose(exact[0], short[0], rtol=0.02)
    assert {tensor.dtype for tensor in short[2].values()} == {tensor.dtype for tensor in exact[2].values()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_compiled_encoder_learns_the_same(config_of, contract_dataset, tmp_path):
    eager = _steps(config_of(training=PLAIN), contract_dataset, tmp_path / "eager", 2)
    compiled = _steps(config_of(training={**PLAIN, "compile": True}), contract_dataset, tmp_path / "compiled", 2)
    assert list(compiled[2]) == list(eager[2])
    assert torch.allclose(eager[0], compiled[0], rtol=1e-4)


def test_a_compilation_that_fails_is_explained(config_of, contract_dataset, tmp_path, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    loop = _loop(config_of(training={**PLAIN, "compile": True}), contract_dataset, tmp_path / "run")

    def fail(*arguments):
        raise TorchDynamoException("no C++ compiler\nand much more")

    monkeypatch.setattr(loop.network.recommender.backbone, "_compiled_call_impl", fail)
    with pytest.raises(UserError, match=r"training.compile: .*\(no C\+\+ compiler\).*compile: false"):
        loop.run()


def test_losses_add_up_and_a_bad_one_is_told():
    meter = LossMeter(("a", "b"), torch.device("cpu"))
    meter.start({"loss": 1.0, "loss/a": 0.5, "loss/b": 0.25})
    meter.add(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
    assert meter.sums(3) == {"loss": 3.0, "loss/a": 1.5, "loss/b": 1.25}
    meter.add(torch.tensor([torch.inf, 1.0, 1.0], dtype=torch.float64))
    meter.add(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64))
    with pytest.raises(FloatingPointError, match=r"step 5.*lower learning rate"):
        meter.sums(5)
    meter.start({})
    assert set(meter.sums(5).values()) == {0.0}


def test_training_leaves_the_seed_of_others_to_them(config_of, contract_dataset, tmp_path):
    """Dropout is drawn from the step's own seed: what was drawn before the run does not matter."""
    model = {"width": 16, "max_length": 12, "dropout": 0.5, "backbone": {"num_blocks": 1}}
    found = []
    for drawn in (0, 3):
        loop = _loop(config_of(model=model, training=PLAIN), contract_dataset, tmp_path / f"after{drawn}")
        torch.rand(drawn)
        found.append(loop.run().network.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


TWO_RANKS = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from raysys.config import RunConfig
from raysys.configfile import build, read_yaml
from raysys.data.dataset import Dataset
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.start import build_network

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
config = build(RunConfig, read_yaml(folder / "config.yaml"), "test")
dataset = Dataset.open(config.dataset)
TrainingLoop(config, dataset, build_network(config, dataset), folder / "two", show=False).run()
dist.destroy_process_group()
"""


@pytest.mark.process
def test_two_ranks_that_take_steps_in_parts_train_as_one_that_does_not(config_of, contract_dataset, tmp_path):
    """24 users a step: 12 a rank, in 5 parts of 2 or 3; the last step of an epoch has 8 users and idle parts."""
    nodes = {"optimizer": {"kind": "sgd", "learning_rate": 0.3, "warmup_steps": 0}}
    training = {"epochs": 3, "batch_size": 24, "threads": 1}
    _loop(config_of(**nodes, training=training), contract_dataset, tmp_path / "one").run()
    config = config_of(**nodes, training={**training, "accumulate": 5})
    (tmp_path / "config.yaml").write_text(dump_yaml(config.model_dump(mode="json")))
    (tmp_path / "two").mkdir()
    ranks = [subprocess.Popen([sys.executable, "-c", TWO_RANKS, str(tmp_path), str(rank)]) for rank in (0, 1)]
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    one, two = read_history(tmp_path / "one"), read_history(tmp_path / "two")
    for first, second in zip(one, two, strict=True):
        for name in ("loss", "loss/next_item", "loss/rating"):
            assert first[name] == pytest.approx(second[name], rel=1e-4), name
    assert one[-1]["loss"] < 0.98 * one[0]["loss"]


MEMORY = """
import json, random, torch
from raysys.tasks.losses import fast_precision, full_softmax

torch.set_num_threads(1)
precision = fast_precision(torch.device("cpu"))
table = torch.randn(12_000, 64, requires_grad=True)

def held():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1024

def steps(count):
    for _ in range(count):
        states = torch.randn(random.randint(100, 2500), 64, requires_grad=True)
        full_softmax(states, table, torch.zeros(len(states), dtype=torch.long), precision).backward()
    return held()

random.seed(0)
print(json.dumps([steps(30), steps(60)]))
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_steps_of_many_sizes_hold_no_more_and_more_memory():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    early, late = json.loads(done.stdout)
    assert late - early < 60, f"from {early} to {late} MB"
