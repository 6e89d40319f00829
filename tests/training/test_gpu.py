"""What a GPU computes is what a CPU computes; skipped where there is none. Needs no Ray: copy the checkout there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raysys.data.batches import make_batch
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.evaluation.evaluate import collect, summarise
from raysys.evaluation.judge import Judge
from raysys.model.backbones import BACKBONES
from raysys.model.sharing import SHARINGS
from raysys.tasks import losses
from raysys.tasks.objectives import OBJECTIVES
from raysys.training.feed import Feed
from raysys.training.learner import Learner
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.parallel import Parallel
from raysys.training.start import build_network
from raysys.weighting import WEIGHTINGS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

STEPS = 3
EVERYTHING = {
    "next_item": {},
    "click": {"dropout": 0.0},
    "purchase": {"kind": "conversion", "label": "purchase", "dropout": 0.0},
    "watch_time": {"duration": "duration", "dropout": 0.0},
    "rating": {"dropout": 0.0},
}


@pytest.fixture(autouse=True)
def _exact_products():
    """TensorFloat-32 would round what is compared."""
    torch.set_float32_matmul_precision("highest")


def _steps(config, dataset, gpu):
    """Return the losses of the first steps, and the weights after them."""
    parallel = Parallel.current(gpu)
    learner = Learner(config, build_network(config, dataset), parallel, 100)
    learner.network.train()
    reader = ShardReader(dataset, columns=learner.network.recommender.reads_columns)
    feed = Feed(config, dataset, reader, parallel)
    batches = feed.batches(0, feed.order(0)[:STEPS], 0)
    found = [learner.step(step, parts).cpu() for step, parts in enumerate(batches)]
    return torch.stack(found), {name: tensor.cpu() for name, tensor in learner.network.state_dict().items()}


def _same(config, dataset):
    (cpu, weights), (gpu, others) = _steps(config, dataset, gpu=False), _steps(config, dataset, gpu=True)
    assert torch.allclose(cpu, gpu, rtol=1e-3, atol=1e-5)
    for name, tensor in weights.items():
        assert torch.allclose(tensor.double(), others[name].double(), rtol=1e-2, atol=1e-3, equal_nan=True), name


@pytest.fixture
def plain(config_of):
    """Make a config without dropout whose steps repeat on any device."""

    def make(**nodes):
        optimizer = {"kind": "sgd", "learning_rate": 0.05, "warmup_steps": 0}  # Adam divides by gradients near 0
        return config_of(**{"optimizer": optimizer, "tasks": {"next_item": {}}, **nodes})

    return make


def _model(**nodes):
    return {"width": 16, "max_length": 12, "dropout": 0.0, "sharing": {"dropout": 0.0}, **nodes}


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbones_train_alike(kind, plain, contract_dataset):
    tasks = {"masked_item": {}} if BACKBONES[kind].bidirectional else {"next_item": {}}
    _same(plain(model=_model(backbone={"kind": kind}), tasks=tasks), contract_dataset)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_objectives_train_alike(kind, plain, contract_dataset):
    _same(plain(tasks={"next_item": {"loss": {"kind": kind}}}), contract_dataset)


@pytest.mark.parametrize("kind", SHARINGS)
def test_sharing_trains_alike(kind, plain, contract_dataset):
    sharing = {"kind": kind, "dropout": 0.0}
    _same(plain(model=_model(sharing=sharing), tasks=EVERYTHING), contract_dataset)


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_weightings_train_alike(kind, plain, contract_dataset):
    if kind == "gramian":
        pytest.importorskip("torchjd")
    _same(plain(weighting={"kind": kind}, tasks=EVERYTHING), contract_dataset)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 60.0])  # 60: chances that bfloat16 cannot hold
def test_full_softmax_equals_cross_entropy(precision, size, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 32, generator=generator).mul(size).cuda().requires_grad_()
    table = torch.randn(900, 32, generator=generator).cuda().requires_grad_()
    targets = torch.randint(900, (300,), generator=generator).cuda()
    rounded = [part.detach().to(precision).double().requires_grad_() for part in (states, table)]
    exact = torch.nn.functional.cross_entropy(rounded[0] @ rounded[1].T, targets, reduction="sum")
    exact.backward()
    for elsewhere in (512 << 20, 1 << 16):
        monkeypatch.setattr(losses, "_CHUNK_BYTES_ELSEWHERE", elsewhere)
        found = losses.full_softmax(states, table, targets, precision)
        rough = 1e-4 if precision == torch.float32 else 2e-2
        assert found.item() == pytest.approx(exact.item(), rel=rough)
        gradients = torch.autograd.grad(found, (states, table))
        assert all(gradient.isfinite().all() for gradient in gradients)
        for mine, theirs in zip(gradients if size == 1 else (), rounded, strict=size == 1):  # big logits round coarsely
            assert (mine - theirs.grad).norm() <= rough * theirs.grad.norm()


def test_a_run_on_a_gpu_learns_resumes_and_is_judged_as_on_a_cpu(config_of, contract_dataset, tmp_path):
    training = {"epochs": 3, "batch_size": 32, "gpu": True, "average_decay": 0.9, "early_stopping": None}
    config = config_of(training=training)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    result = _loop(config, contract_dataset, whole).run()
    half = _loop(config, contract_dataset, cut)
    half.on_epoch = _stop
    with pytest.raises(KeyboardInterrupt):
        half.run()
    again = _loop(config, contract_dataset, cut).run()
    for line, other in zip(read_history(whole), read_history(cut), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert read_history(whole)[-1]["loss"] < read_history(whole)[0]["loss"]
    assert again.position.step == result.position.step
    judges = [Judge.of(contract_dataset, config.evaluation, 12, torch.device(name)) for name in ("cuda", "cpu")]
    found = [summarise(collect(judge, result.network.to(judge.device), Split.TEST)) for judge in judges]
    for name, value in found[0].items():
        assert value == pytest.approx(found[1][name], abs=0.02), name


def _loop(config, dataset, directory):
    return TrainingLoop(config, dataset, build_network(config, dataset), directory, show=False)


def _stop(metrics):
    if metrics["epoch"] == 1:
        raise KeyboardInterrupt


def test_batches_arrive_whole(contract_reader):
    batch = make_batch(contract_reader.rows(np.arange(40)), Split.TRAIN, contract_reader.is_history, 12)
    moved = batch.to(torch.device("cuda"))
    assert torch.equal(moved.history.items_BL.cpu(), batch.history.items_BL)
    assert int(moved.targets.items_BC.max()) >= FIRST_ITEM
    assert replace(moved, key=1).targets.mask_BC.is_cuda


def test_a_compiled_encoder_in_bfloat16_learns_the_same(plain, contract_dataset):
    eager = _steps(plain(training={"batch_size": 32, "gpu": True}), contract_dataset, gpu=True)
    training = {"batch_size": 32, "gpu": True, "compile": True, "precision": "bfloat16"}
    compiled = _steps(plain(training=training), contract_dataset, gpu=True)
    assert torch.allclose(eager[0], compiled[0], rtol=2e-2)
