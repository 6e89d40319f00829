"""Items that go without their own vectors for a step: who, and that all parts of the step agree on it."""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysys.data.batches import make_batch
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.errors import UserError
from raysys.model.items.id import IdEmbedding
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask

SIZE, WIDTH, LENGTH = 5000, 4, 12
BESIDE = {"id": {"kind": "id", "dropout": 0.5}, "beside": {"kind": "id"}}
TASKS_OF_VECTORS = {
    "next_item": {},
    "sampled": {"kind": "next_item", "loss": {"kind": "sampled_softmax", "negatives": 8, "in_batch": 4}},
    "similar_item": {"loss": {"kind": "sampled_softmax", "negatives": 8}},
    "click": {"dropout": 0.0},
}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return IdEmbedding(IdEmbedding.Config(dropout=0.3), SIZE, WIDTH)


@pytest.fixture
def network(contract_dataset):
    torch.manual_seed(0)
    settings = {"width": 16, "max_length": LENGTH, "dropout": 0.0, "items": BESIDE, "sharing": {"dropout": 0.0}}
    tasks = {name: TASKS[node.get("kind", name)].Config(**node) for name, node in TASKS_OF_VECTORS.items()}
    network = MultiTask(ModelConfig.model_validate(settings), tasks, contract_dataset.manifest)
    network.observe(contract_dataset)
    torch.nn.init.normal_(network.recommender.items.encoders["id"].embedding.weight)
    return network.train()


def _batch(dataset, users, key=5):
    reader = ShardReader(dataset, columns=True)
    return make_batch(reader.rows(np.asarray(users)), Split.TRAIN, reader.is_history, LENGTH, key=key)


def _totals(network, batch):
    return network(network.prepare(batch)).totals_T


def _dropped(vectors_VD):
    return (vectors_VD == 0).all(-1)


def test_the_share_of_items_goes_whole_and_the_others_stay_as_they_are(encoder):
    table = encoder.at_step(7).table()
    gone = _dropped(table)
    assert gone[FIRST_ITEM:].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(table[~gone], encoder.embedding.weight[~gone])
    assert not gone[1], "UNKNOWN stands for hidden tokens too, and is never dropped"


def test_a_lookup_agrees_with_the_table(encoder):
    items = torch.randint(SIZE, (3, 40))
    assert torch.equal(encoder.at_step(7)(items), encoder.at_step(7).table()[items])


def test_every_step_drops_others(encoder):
    gone = torch.stack([_dropped(encoder.at_step(key).table()) for key in range(40)]).float()
    assert gone.mean(0)[FIRST_ITEM:].max() < 0.75, "an item is gone in every step"
    assert gone.mean(0)[FIRST_ITEM:].std().item() == pytest.approx((0.3 * 0.7 / 40) ** 0.5, rel=0.1)


def test_evaluation_drops_nothing(encoder):
    assert encoder.eval().at_step(7) is encoder


def test_what_is_dropped_learns_nothing(encoder):
    seen = encoder.at_step(7)
    seen.table().sum().backward()
    assert torch.equal(_dropped(encoder.embedding.weight.grad)[1:], _dropped(seen.table())[1:])


def test_tokens_targets_and_negatives_lose_the_same_vectors(network, contract_dataset):
    """A step is that of a model whose table has zeros in the places of the dropped items."""
    batch = _batch(contract_dataset, range(40))
    plain = copy.deepcopy(network)
    own = plain.recommender.items.encoders["id"]
    gone = _dropped(own.at_step(batch.key).table())
    assert 0.3 < gone.float().mean() < 0.7
    own.dropout = 0.0
    whole = _totals(plain, batch)
    with torch.no_grad():
        own.embedding.weight[gone] = 0
    found = _totals(network, batch)
    assert torch.allclose(found, _totals(plain, batch), rtol=1e-5)
    assert not torch.isclose(found, whole, rtol=1e-3).any()


def test_halves_of_a_batch_add_up(network, contract_dataset):
    """Ranks draw the same, each for its own users; negatives that a step shares are left out."""
    network.tasks["sampled"].objective.in_batch = 0
    network.tasks["sampled"].objective.by_popularity = None
    halves = [_totals(network, _batch(contract_dataset, users)) for users in (range(17), range(17, 40))]
    assert torch.allclose(_totals(network, _batch(contract_dataset, range(40))), sum(halves), rtol=1e-4)


def test_new_items_are_what_the_encoders_beside_have_of_them(encoder):
    rows = pa.table({"title": ["red", "blue"]})
    assert torch.equal(encoder.of_new(rows), torch.zeros(2, WIDTH))
    with pytest.raises(UserError, match=r"IdEmbedding knows items of training alone.*dropout: 0.3.*items: text"):
        IdEmbedding(IdEmbedding.Config(), SIZE, WIDTH).of_new(rows)


def test_ids_alone_cannot_be_dropped():
    with pytest.raises(ValueError, match="nothing is left of an item"):
        ModelConfig.model_validate({"items": {"id": {"dropout": 0.3}}})
