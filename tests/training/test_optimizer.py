import math

import pytest
import torch
from torch import nn

from raysys.component import OneOf
from raysys.config import RunConfig
from raysys.configfile import build
from raysys.errors import UserError
from raysys.optimizer import OPTIMIZERS, build_optimizer, clip, learning_rate_at, set_learning_rates

PLAIN = {"weight_decay": 0.0}


def _config(**node):
    return OneOf(OPTIMIZERS, default="adamw").validate(node)


def _stepped(config, gradients, start=2.0):
    """Take one step per gradient on a single weight of a linear layer; returns its values."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(start)
    optimizer, seen = build_optimizer(layer, config), []
    for gradient in gradients:
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        seen.append(layer.weight.item())
    return seen


def test_sgd_follows_its_formula():
    for nesterov in (False, True):
        config = _config(kind="sgd", learning_rate=0.1, momentum=0.5, nesterov=nesterov, weight_decay=0.01)
        weight, velocity, expected = 2.0, 0.0, []
        for gradient in (1.0, -2.0, 0.5):
            total = gradient + 0.01 * weight
            velocity = 0.5 * velocity + total if expected else total
            weight -= 0.1 * (total + 0.5 * velocity if nesterov else velocity)
            expected.append(weight)
        assert _stepped(config, (1.0, -2.0, 0.5)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_and_adamw_follow_their_formulas(kind):
    config = _config(kind=kind, learning_rate=0.1, beta1=0.8, beta2=0.9, weight_decay=0.3)
    weight, mean, square, expected = 2.0, 0.0, 0.0, []
    for step, given in enumerate((1.0, -2.0, 0.5), start=1):
        gradient = given + 0.3 * weight if kind == "adam" else given
        weight -= 0.1 * 0.3 * weight if kind == "adamw" else 0.0
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        weight -= 0.1 * (mean / (1 - 0.8**step)) / (math.sqrt(square / (1 - 0.9**step)) + 1e-8)
        expected.append(weight)
    assert _stepped(config, (1.0, -2.0, 0.5)) == pytest.approx(expected, rel=1e-5)


def test_only_matrices_of_layers_decay():
    module = nn.ModuleDict({"table": nn.Embedding(3, 2), "layer": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    optimizer = build_optimizer(module, _config(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in module.named_parameters()}
    assert {name for name, value in found.items() if value} == {"layer.weight"}
    assert len(found) == 5


def test_an_optimizer_is_adamw_unless_it_says_otherwise():
    node = {"project": "shop", "optimizer": {"learning_rate": 0.5}}
    assert build(RunConfig, node, "test").optimizer == OPTIMIZERS["adamw"].Config(learning_rate=0.5)
    assert build(RunConfig, {"project": "shop"}, "test").optimizer.kind == "adamw"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"kind": "adamm"}, r"optimizer: unknown kind 'adamm'; did you mean 'adam"),
        ({"kind": "sgd", "beta1": 0.5}, r"optimizer: .*unknown key 'beta1'|optimizer.*beta1"),
        ({"kind": "sgd", "momentum": 0, "nesterov": True}, r"nesterov needs momentum"),
        ({"learning_rate": -1}, r"optimizer.learning_rate"),
    ],
)
def test_wrong_settings_are_named(node, message):
    with pytest.raises(UserError, match=message):
        build(RunConfig, {"project": "shop", "optimizer": node}, "test")


def test_the_learning_rate_rises_then_falls_or_stays():
    config = _config(learning_rate=1.0, warmup_steps=4, schedule="cosine")
    found = [learning_rate_at(step, 8, config) for step in range(9)]
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:] == pytest.approx([1.0, 0.5 + 0.5 / math.sqrt(2), 0.5, 0.5 - 0.5 / math.sqrt(2), 0.0])
    assert {learning_rate_at(step, 8, _config(warmup_steps=4)) for step in range(4, 9)} == {1e-3}


def test_clipping_bounds_the_norm_over_all_gradients():
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([1.0, 2.0, 2.0]), torch.full((2, 2), 2.0)
    clip(parameters, 10.0)
    assert parameters[0].grad.tolist() == [1.0, 2.0, 2.0]
    clip(parameters, 1.0)
    assert parameters[0].grad.tolist() == pytest.approx([0.2, 0.4, 0.4], rel=1e-4)
    assert parameters[1].grad.flatten().tolist() == pytest.approx([0.4] * 4, rel=1e-4)
    assert parameters[2].grad is None


def _trained(config, steps=6):
    """Train a table, a layer and a norm on fixed gradients under a schedule; returns all weights."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"table": nn.Embedding(3, 2), "layer": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    optimizer = build_optimizer(module, config)
    for step in range(steps):
        for place, parameter in enumerate(module.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (place + 1))
        set_learning_rates(optimizer, step, steps, config)
        optimizer.step()
    return {name: p.detach().clone() for name, p in module.named_parameters()}


SCHEDULED = {"learning_rate": 0.01, "warmup_steps": 2, "schedule": "cosine", "weight_decay": 0.1}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_tables_may_have_a_rate_of_their_own(kind):
    one = _trained(_config(kind=kind, **SCHEDULED))
    two = _trained(_config(kind=kind, **SCHEDULED, table_learning_rate=0.03))
    three = _trained(_config(kind=kind, **{**SCHEDULED, "learning_rate": 0.03}))
    assert two["table.weight"].equal(three["table.weight"])
    assert not two["table.weight"].equal(one["table.weight"])
    assert all(two[name].equal(one[name]) for name in one if name != "table.weight")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_same_rate_for_tables_changes_nothing(kind):
    one = _trained(_config(kind=kind, **SCHEDULED))
    two = _trained(_config(kind=kind, **SCHEDULED, table_learning_rate=0.01))
    assert all(two[name].equal(one[name]) for name in one)


def test_without_a_rate_of_their_own_tables_are_in_the_group_they_were_in():
    module = nn.ModuleDict({"table": nn.Embedding(3, 2), "layer": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    optimizer = build_optimizer(module, _config(learning_rate=0.3))
    names = {id(p): name for name, p in module.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert groups == [["layer.weight"], ["table.weight", "layer.bias", "norm.weight", "norm.bias"]]
    set_learning_rates(optimizer, 0, 9, _config(learning_rate=0.3, warmup_steps=7))
    assert {group["lr"] for group in optimizer.param_groups} == {0.3 * 1 / 7}


def test_a_rate_for_tables_that_are_not_there_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.table_learning_rate: no embedding table"):
        build_optimizer(nn.Linear(2, 2), _config(table_learning_rate=0.1))
