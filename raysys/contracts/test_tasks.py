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

MODEL = ModelConfig(width=16, max_length=12, dropout=0.0)


@pytest.fixture(params=list(TASKS))
def network(request, contract_dataset):
    """A model with this task alone; skipped where the task needs a label that the contract's data lacks."""
    torch.manual_seed(0)
    try:
        return MultiTask(MODEL, {"it": TASKS[request.param].Config()}, contract_dataset.manifest).eval()
    except UserError as error:
        pytest.skip(f"the contract's data cannot serve it: {error}")


def _batch(reader, rows, split=Split.TRAIN):
    return make_batch(reader.rows(np.asarray(rows)), split, reader.is_history, MODEL.max_length)


def _task(network) -> Task:
    return network.named_tasks()["it"]


def _losses(network, batch):
    return network(batch, torch.Generator().manual_seed(0))


def test_logits_are_one_per_target(network, contract_reader):
    batch = _batch(contract_reader, range(10))
    logits = _task(network).logits(network.recommender(batch.history), batch.targets)
    assert logits.shape == batch.targets.items_BC.shape
    assert logits[batch.targets.mask_BC].isfinite().all()


def test_loss_is_a_finite_sum(network, contract_reader):
    losses = _losses(network, _batch(contract_reader, range(10)))
    assert losses.totals_T.isfinite().all()
    assert losses.counts_T.item() > 0


def test_losses_of_two_ranks_add_up(network, contract_reader):
    if type(_task(network)).prepare is not Task.prepare:
        pytest.skip("a task that draws its own view may differ between halves")
    both = _losses(network, _batch(contract_reader, range(12)))
    halves = [_losses(network, _batch(contract_reader, rows)) for rows in (range(5), range(5, 12))]
    assert torch.allclose(both.totals_T, halves[0].totals_T + halves[1].totals_T, rtol=1e-4)
    assert torch.equal(both.counts_T, halves[0].counts_T + halves[1].counts_T)


def test_a_rank_without_targets_takes_part(network, contract_reader):
    batch = make_batch(contract_reader.rows(np.array([0])), Split.NONE, contract_reader.is_history, MODEL.max_length)
    losses = _losses(network.train(), batch)
    assert losses.counts_T.item() == 0
    assert losses.totals_T.item() == 0
    losses.totals_T.sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert not idle, f"DDP would wait for ever for {idle}"


def test_training_lowers_the_loss(network, contract_reader):
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    batch, seen = _batch(contract_reader, range(64)), []
    for _ in range(30):
        losses = _losses(network, batch)
        loss = (losses.totals_T / losses.counts_T).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.9 * seen[0], f"the loss went from {seen[0]:.3f} to {seen[-1]:.3f} in 30 steps on one batch"


def test_no_target_is_seen_before_it_happens(network, contract_reader):
    batch = _batch(contract_reader, range(10))
    logits = _task(network).logits(network.recommender(batch.history), batch.targets)
    at = 2
    items_BL = batch.history.items_BL.clone()
    items_BL[:, at:] = torch.where(batch.history.mask_BL[:, at:], FIRST_ITEM, items_BL[:, at:])
    changed = network.recommender(replace(batch.history, items_BL=items_BL))
    early = batch.targets.mask_BC & (batch.targets.anchor_BC < at)
    assert torch.allclose(logits[early], _task(network).logits(changed, batch.targets)[early], atol=1e-5)


def test_retrieval_query_agrees_with_logits(network, contract_reader):
    task = _task(network)
    if not isinstance(task, Retrieves):
        pytest.skip("not a retrieval task")
    batch = _batch(contract_reader, range(6))
    encoded = network.recommender(batch.history)
    query_BCD = task.query(encoded.state_before(batch.targets.anchor_BC))
    scores = (query_BCD * encoded.items(batch.targets.items_BC)).sum(-1)
    mask = batch.targets.mask_BC
    assert torch.allclose(scores[mask], task.logits(encoded, batch.targets)[mask], atol=1e-4)


def test_pair_scorer_names_its_label(network, contract_reader):
    task = _task(network)
    if not isinstance(task, ScoresPairs):
        pytest.skip("not a pair-scoring task")
    batch = _batch(contract_reader, range(6))
    assert task.label in batch.targets.labels
    logits = LazyLogits(network.named_tasks(), network.recommender(batch.history), batch.targets)["it"]
    assert task.predict(logits).shape == logits.shape
