"""Every task: what training, evaluation, serving and several ranks rely on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raysys.data.batches import make_batch
from raysys.data.schema import FIRST_ITEM, Split
from raysys.errors import UserError
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import LazyLogits, MultiTask
from raysys.tasks.task import Retrieves, ScoresPairs, Task

LENGTH = 12
NEEDED = {
    "binary": {"label": "click"},
    "bundle": {"within": "3d"},
    "churn": {"horizon": "1d"},
    "similar_item": {"loss": {"kind": "sampled_softmax", "negatives": 16}},  # ranks share what stands in one batch
    "watch_count": {"horizon": "1d"},
    "conversion": {"label": "purchase"},
    "watch_time": {"duration": "duration"},
}
"""What a task cannot do without, in terms of the contract's data."""
BESIDE = {"conversion": {"click": {}}}
"""Tasks that another one builds on."""


@pytest.fixture(params=list(TASKS))
def network(request, contract_dataset):
    """A model with this task and what it builds on; skipped where the contract's data lacks a label for it."""
    torch.manual_seed(0)
    part = TASKS[request.param]
    backbone = {"kind": "sasrec" if part.anchored else "bert4rec"}
    model = ModelConfig(width=16, max_length=LENGTH, dropout=0.0, backbone=backbone)
    try:
        tasks = {name: TASKS[name].Config(**settings) for name, settings in BESIDE.get(request.param, {}).items()}
        tasks["it"] = part.Config(**NEEDED.get(request.param, {}))
        network = MultiTask(model, tasks, contract_dataset.manifest).eval()
    except UserError as error:
        pytest.skip(f"the contract's data cannot serve it: {error}")
    network.observe(contract_dataset)
    return network


def _batch(reader, rows, split=Split.TRAIN, key=7):
    return make_batch(reader.rows(np.asarray(rows)), split, reader.is_history, LENGTH, key=key)


def _task(network) -> Task:
    return network.named_tasks()["it"]


def _view(network, batch):
    return network.prepare(batch)[-1]


def _total_and_count(network, batch):
    views = network.prepare(batch)
    return network(views).totals_T[-1], network.counts(views)[-1]


def test_logits_are_one_per_target(network, contract_reader):
    view = _view(network, _batch(contract_reader, range(10)))
    logits = _task(network).logits(network.recommender(view.history), view.targets)
    assert logits.shape == view.targets.items_BC.shape
    assert logits[view.targets.mask_BC].isfinite().all()


def test_loss_is_a_finite_sum(network, contract_reader):
    total, count = _total_and_count(network, _batch(contract_reader, range(10)))
    assert total.isfinite()
    assert total.shape == count.shape == ()
    assert 0 < count.item() <= _view(network, _batch(contract_reader, range(10))).targets.mask_BC.sum()


def test_losses_of_two_ranks_add_up(network, contract_reader):
    both = _total_and_count(network, _batch(contract_reader, range(12)))
    halves = [_total_and_count(network, _batch(contract_reader, rows)) for rows in (range(5), range(5, 12))]
    assert torch.allclose(both[0], halves[0][0] + halves[1][0], rtol=1e-4)
    assert both[1] == halves[0][1] + halves[1][1]


def test_a_step_draws_the_same_whenever_it_is_taken(network, contract_reader):
    first, again = (_total_and_count(network, _batch(contract_reader, range(10))) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_a_rank_without_targets_takes_part(network, contract_reader):
    total, count = _total_and_count(network.train(), _batch(contract_reader, [0], Split.NONE))
    assert count.item() == 0
    assert total.item() == 0
    total.backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert not idle, f"DDP would wait for ever for {idle}"


def test_training_lowers_the_loss(network, contract_reader):
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    batch, seen = _batch(contract_reader, range(64)), []
    for _ in range(30):
        total, count = _total_and_count(network, batch)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        seen.append((total / count).item())
    assert seen[-1] < 0.9 * seen[0], f"the loss went from {seen[0]:.3f} to {seen[-1]:.3f} in 30 steps on one batch"


def test_no_target_is_seen_before_it_happens(network, contract_reader):
    if not _task(network).anchored:
        pytest.skip("a task of hidden tokens: targets stand at their own positions")
    view = _view(network, _batch(contract_reader, range(10)))
    logits = _task(network).logits(network.recommender(view.history), view.targets)
    at = 2
    items_BL = view.history.items_BL.clone()
    items_BL[:, at:] = torch.where(view.history.mask_BL[:, at:], FIRST_ITEM, items_BL[:, at:])
    changed = network.recommender(replace(view.history, items_BL=items_BL))
    early = view.targets.mask_BC & (view.targets.anchor_BC < at)
    assert torch.allclose(logits[early], _task(network).logits(changed, view.targets)[early], atol=1e-5)


def test_no_hidden_token_is_in_its_view(network, contract_reader):
    if _task(network).anchored:
        pytest.skip("a task of targets that come after their states")
    view = _view(network, _batch(contract_reader, range(10)))
    targets = view.targets
    place = (targets.mask_BC.nonzero(as_tuple=True)[0], targets.anchor_BC[targets.mask_BC])
    assert view.history.mask_BL[place].all()
    assert (view.history.items_BL[place] < FIRST_ITEM).all()


def test_retrieval_query_agrees_with_logits(network, contract_reader):
    task = _task(network)
    if not isinstance(task, Retrieves):
        pytest.skip("not a retrieval task")
    batch = _batch(contract_reader, range(6))
    last_B1 = batch.targets.mask_BC.sum(1, keepdim=True) - 1
    anchor_B = batch.targets.anchor_BC.gather(1, last_B1).squeeze(1)
    wanted_B1 = batch.targets.items_BC.gather(1, last_B1)
    history, asked_B = task.ask(batch.history, anchor_B)
    encoded = network.recommender(history)
    query_BD = task.query(encoded, asked_B.unsqueeze(1)).squeeze(1)
    targets = replace(batch.targets, items_BC=wanted_B1, anchor_BC=asked_B.unsqueeze(1))
    logits_B1 = task.logits(encoded, targets)
    assert torch.allclose((query_BD * encoded.items(wanted_B1.squeeze(1))).sum(-1), logits_B1.squeeze(1), atol=1e-4)
    if task.anchored:
        whole_BC = task.logits(network.recommender(batch.history), batch.targets)
        assert torch.allclose(logits_B1, whole_BC.gather(1, last_B1), atol=1e-4)


def test_pair_scorer_names_its_label(network, contract_reader):
    task = _task(network)
    if not hasattr(task, "label"):
        pytest.skip("not a pair-scoring task")
    assert isinstance(task, ScoresPairs), "a task with a label also says what it `predicts` and `positive_from`"
    batch = _batch(contract_reader, range(6))
    assert task.label in batch.targets.labels
    assert task.truth(batch.targets).shape == batch.targets.mask_BC.shape
    logits = LazyLogits(network.named_tasks(), network.recommender(batch.history), batch.targets)["it"]
    predicted = task.predict(logits)
    assert predicted.shape == logits.shape
    assert task.predicts in ("probability", "value")
    if task.predicts == "probability":
        assert task.positive_from is not None, "a probability is that of a label from `positive_from` on"
        assert ((predicted >= 0) & (predicted <= 1)).all()
