"""What the towers are told of vectors from tables, how those begin, and experts and gates in one product."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raysys.configfile import build
from raysys.data.batches import make_batch
from raysys.data.reader import ShardReader
from raysys.data.schema import PAD, Split
from raysys.model.recommender import ModelConfig
from raysys.model.sharing import SharingContext
from raysys.model.sharing.mmoe import MMoE
from raysys.model.told import Told
from raysys.tasks.binary import Click
from raysys.tasks.multitask import MultiTask

WIDTH = 8


def _network(dataset, **model):
    torch.manual_seed(0)
    config = build(ModelConfig, {"width": WIDTH, "max_length": 12, "dropout": 0.0, **model}, "test")
    network = MultiTask(config, {"click": Click.Config()}, dataset.manifest)
    network.observe(dataset)
    return network.eval()


def _told(network, dataset, monkeypatch):
    """Return what is told of the states and vectors of some pairs, and these."""
    reader = ShardReader(dataset, columns=True)
    batch = make_batch(reader.rows(np.arange(20)), Split.TRAIN, reader.is_history, 12)
    head, seen = network.recommender.pair_head, []
    forward = head.sharing.forward
    monkeypatch.setattr(head.sharing, "forward", lambda told: seen.append(told[""]) or forward(told))
    encoded = network.recommender(batch.history)
    encoded.shared(batch.targets)
    mask = batch.targets.mask_BC
    states = encoded.state_before(batch.targets.anchor_BC, mask)
    return seen[0].pairs_NP[:, : 3 * WIDTH], states, encoded.items(batch.targets.items_BC[mask])


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_vectors_of_tables_keep_their_lengths(contract_dataset, monkeypatch, kind):
    network = _network(contract_dataset, backbone={"kind": kind})
    told, states, vectors = _told(network, contract_dataset, monkeypatch)
    assert torch.equal(told, torch.cat([states, vectors, states * vectors], dim=-1))


def test_computed_states_are_normalised(contract_dataset, monkeypatch):
    told, states, vectors = _told(_network(contract_dataset), contract_dataset, monkeypatch)
    wanted = F.layer_norm(torch.cat([states, vectors, states * vectors], dim=-1), (3 * WIDTH,))
    assert torch.allclose(told, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_tables_begin_as_small_as_they_are_told_to(contract_dataset, kind):
    node = {"items": {"id": {"init_std": 1e-4}}, "backbone": {"kind": kind, "init_std": 1e-3}}
    recommender = _network(contract_dataset, **node).recommender
    table = recommender.items.encoders["id"].embedding.weight
    assert table[PAD + 1 :].std().item() == pytest.approx(1e-4, rel=0.2)
    assert recommender.backbone.users.weight.std().item() == pytest.approx(1e-3, rel=0.2)


def test_experts_and_gates_in_one_product_are_those_of_the_paper():
    torch.manual_seed(0)
    mmoe = MMoE(MMoE.Config(hidden=6, num_experts=3), SharingContext(10, ("click", "like"))).eval()
    x_NE = torch.randn(7, 10)
    shared = mmoe({"": Told(x_NE)})
    experts_NXH = torch.stack([one(x_NE) for one in mmoe.experts], dim=1)
    for task, gate in mmoe.gates.items():
        weights_NX = gate(x_NE).softmax(-1)
        assert torch.allclose(shared.gates[task], weights_NX, atol=1e-6)
        assert torch.allclose(shared.by_task[task], torch.einsum("nx,nxh->nh", weights_NX, experts_NXH), atol=1e-6)
