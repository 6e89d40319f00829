from dataclasses import replace

import numpy as np
import pytest
import torch

from raysys.configfile import build
from raysys.data.batches import History, make_queries
from raysys.data.reader import history_rows
from raysys.data.schema import FIRST_ITEM, Split
from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.lightgcn import LightGCN
from raysys.model.backbones.mf import MF
from raysys.model.recommender import ItemTower, ModelConfig
from raysys.tasks.multitask import MultiTask
from raysys.tasks.next_item import NextItem

WIDTH, LENGTH, LAYERS = 8, 12, 2


@pytest.fixture
def items(contract_dataset):
    torch.manual_seed(1)
    tower = ItemTower(ModelConfig(width=WIDTH), contract_dataset.manifest.num_items + FIRST_ITEM)
    torch.nn.init.normal_(tower.encoders["id"].embedding.weight)
    return tower


def _observed(part, config, dataset):
    torch.manual_seed(0)
    backbone = part(config, ModelContext(WIDTH, LENGTH, 0.0, dataset.manifest.num_users))
    backbone.observe(dataset)
    torch.nn.init.normal_(backbone.users.weight)
    return backbone.eval()


def _dense(reader, dataset):
    """The normalised matrix of who had what in training, f32 [U, V - 2]."""
    had_UV = torch.zeros(dataset.manifest.num_users, dataset.manifest.num_items)
    rows = reader.rows(np.arange(dataset.manifest.num_users))
    for user in range(len(had_UV)):
        for at in range(rows.offsets[user], rows.offsets[user + 1]):
            if rows.marks[at] == Split.TRAIN:
                had_UV[user, rows.items[at] - FIRST_ITEM] = 1
    return had_UV / (had_UV.sum(1, keepdim=True) * had_UV.sum(0)).clamp(min=1).sqrt(), had_UV


def _layers(backbone, items, graph_UV):
    users, table = [backbone.users.weight], [items.table()]
    for _ in range(LAYERS):
        users, table = [*users, graph_UV @ table[-1]], [*table, graph_UV.T @ users[-1]]
    return users, table


def test_lightgcn_is_the_dense_product(items, contract_dataset, contract_reader):
    backbone = _observed(LightGCN, LightGCN.Config(num_layers=LAYERS), contract_dataset)
    graph_UV, _ = _dense(contract_reader, contract_dataset)
    users, table = _layers(backbone, items, graph_UV)
    vectors = backbone.vectors(items)
    wanted_UD, wanted_VD = sum(users) / (LAYERS + 1), sum(table) / (LAYERS + 1)
    assert torch.allclose(vectors.table(), wanted_VD, atol=1e-5)
    assert torch.allclose(vectors(torch.tensor([[2, 5]])), wanted_VD[[0, 3]], atol=1e-5)
    everybody = _asked([[2]] * len(wanted_UD), range(len(wanted_UD)))
    assert torch.allclose(backbone(everybody, vectors)[:, 0], wanted_UD, atol=1e-5)


def test_lightgcn_has_the_dense_gradient(items, contract_dataset, contract_reader):
    backbone = _observed(LightGCN, LightGCN.Config(num_layers=LAYERS), contract_dataset)
    graph_UV, _ = _dense(contract_reader, contract_dataset)
    ask = torch.randn(len(graph_UV), WIDTH)
    parameters = [backbone.users.weight, items.encoders["id"].embedding.weight]
    vectors = backbone.vectors(items)
    everybody = _asked([[2]] * len(graph_UV), range(len(graph_UV)))
    found = torch.autograd.grad(
        (backbone(everybody, vectors)[:, 0] * ask).sum() + vectors.table().square().sum(), parameters
    )
    users, table = _layers(backbone, items, graph_UV)
    share = 1 / (LAYERS + 1)
    loss = (sum(users) * share * ask).sum() + (sum(table) * share).square().sum()
    for got, wanted in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(got, wanted, atol=1e-4)


def test_a_new_user_gets_what_lightgcn_gives_a_known_one_without_a_vector(items, contract_dataset, contract_reader):
    backbone = _observed(LightGCN, LightGCN.Config(num_layers=LAYERS), contract_dataset)
    graph_UV, had_UV = _dense(contract_reader, contract_dataset)
    users, _ = _layers(backbone, items, graph_UV)
    few = (had_UV.sum(1) < LENGTH).nonzero().squeeze(1)[:5].tolist()
    had = [(had_UV[user].nonzero().squeeze(1) + FIRST_ITEM).tolist() for user in few]
    had = [row + row[:1] for row in had]  # an item that comes again counts once
    states = backbone(_asked(had, [-1] * 5), backbone.vectors(items))
    for at, (user, row) in enumerate(zip(few, had, strict=True)):
        wanted = sum(layer[user] for layer in users[1:]) / (LAYERS + 1)
        assert torch.allclose(states[at, len(row) - 1], wanted, atol=1e-5)


def test_mf_meets_a_new_user_as_a_gaussian_process_would(items, contract_dataset):
    config = MF.Config(noise=0.7, surprise=1.5)
    backbone = _observed(MF, config, contract_dataset)
    users_UD = backbone.users.weight[backbone.users.trained_U].double()
    mean_D, covariance_DD = users_UD.mean(0), torch.cov(users_UD.T, correction=0)
    tokens = [[4, 9, 9, 17], [30, 2]]
    states = backbone(_asked(tokens, [-1, -1]), backbone.vectors(items))
    for user, row in enumerate(tokens):
        for at in range(len(row)):
            y = items(torch.tensor(row[: at + 1])).double()
            scale = (y @ covariance_DD @ y.T).diagonal().sqrt()
            scores = (y @ covariance_DD @ y.T) / scale / scale.unsqueeze(1)
            weights = torch.linalg.solve(
                scores + config.noise * torch.eye(at + 1), torch.full((at + 1,), config.surprise).double()
            )
            wanted = mean_D + covariance_DD @ (y / scale.unsqueeze(1)).T @ weights
            assert torch.allclose(states[user, at].double(), wanted, atol=1e-4)


@pytest.mark.parametrize("part", [MF, LightGCN])
def test_a_user_without_any_event_is_the_average_one(part, items, contract_dataset):
    backbone = _observed(part, part.Config(), contract_dataset)
    vectors = backbone.vectors(items)
    everybody = _asked([[2]] * 200, range(200))
    average_D = backbone(everybody, vectors)[backbone.users.trained_U, 0].mean(0)
    assert torch.allclose(backbone(_asked([[]], [-1]), vectors)[0, 0], average_D, atol=1e-5)


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_a_new_user_is_asked_before_his_first_token_without_it(kind, contract_dataset):
    torch.manual_seed(0)
    model = build(ModelConfig, {"width": 8, "max_length": LENGTH, "backbone": {"kind": kind}}, "test")
    network = MultiTask(model, {"next_item": NextItem.Config()}, contract_dataset.manifest).eval()
    network.observe(contract_dataset)
    before = torch.full((1, 1), -1)
    starts = [network.recommender(_asked([tokens], [-1])).state_before(before) for tokens in ([5, 9], [12, 3], [])]
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("part", [MF, LightGCN])
def test_who_was_not_trained_is_new_whatever_his_row(part, items, contract_dataset):
    backbone = _observed(part, part.Config(), contract_dataset)
    backbone.users.trained_U[3] = False
    asked = _asked([[7, 8]], [3])
    vectors = backbone.vectors(items)
    new = backbone(replace(asked, users_B=torch.tensor([-1])), vectors)
    assert torch.equal(backbone(asked, vectors), new)
    backbone.users.trained_U[3] = True
    assert not torch.allclose(backbone(asked, vectors), new, atol=1e-3)


def _asked(tokens, users) -> History:
    rows = replace(history_rows([np.array(row, np.int32) for row in tokens]), users=np.array(list(users)))
    return make_queries(rows, Split.NONE, np.array([True]), LENGTH).history
