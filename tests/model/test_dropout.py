"""Dropout: what is left out, what is scaled, and that a seed repeats it."""

import pytest
import torch
from torch import nn

from raysys.model.dropout import Dropout, DroppedReLU


def _dropped(x, chance=0.3, seed=0):
    torch.manual_seed(seed)
    return Dropout(chance).train()(x)


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_it_zeroes_a_share_and_keeps_the_mean(chance):
    out = _dropped(torch.ones(1000, 301), chance)
    assert (out == 0).float().mean().item() == pytest.approx(chance, abs=0.005)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert len(out.unique()) == 2


def test_elements_are_independent():
    kept = (_dropped(torch.ones(400, 400), 0.5) > 0).float() - 0.5
    for shift in (1, 2, 3, 4):  # four elements come from one draw
        assert abs((kept[:, shift:] * kept[:, :-shift]).mean().item()) < 0.005


def test_the_gradient_goes_where_the_value_went():
    x = torch.randn(7, 5, 3, requires_grad=True)
    out = _dropped(x)
    out.sum().backward()
    assert torch.allclose(out, x * x.grad)
    assert torch.equal(out == 0, x.grad == 0)


def test_a_seed_repeats_it():
    x = torch.randn(50, 3)
    assert torch.equal(_dropped(x, seed=4), _dropped(x, seed=4))
    assert not torch.equal(_dropped(x, seed=4), _dropped(x, seed=5))


def test_evaluation_and_no_chance_leave_it_alone():
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_any_layout_and_size():
    turned = torch.randn(3, 5, 7).transpose(0, 2)
    out = _dropped(turned)
    assert out.shape == turned.shape
    assert torch.allclose(out[out != 0], turned[out != 0] / 0.7, rtol=1e-4)
    assert _dropped(torch.zeros(0, 4)).shape == (0, 4)
    assert _dropped(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_compiled_code_takes_torchs_own():
    def both(x):
        return Dropout(0.5).train()(x)

    compiled = torch.compile(both, backend="eager", fullgraph=True)
    assert (compiled(torch.ones(1000)) == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_it_keeps_a_byte_per_element():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda kept: kept):
        x = torch.ones(8, 8, requires_grad=True)
        nn.Sequential(Dropout(0.5)).train()(x)
    assert [(tensor.numel(), tensor.element_size()) for tensor in saved] == [(x.numel(), 1)]


def test_with_relu_it_is_relu_then_dropout():
    x, grad = torch.randn(300, 40), torch.randn(300, 40)
    found = []
    for layer in (DroppedReLU(0.3), nn.Sequential(nn.ReLU(), Dropout(0.3))):
        torch.manual_seed(3)
        given = x.clone().requires_grad_()
        out = layer.train()(given)
        out.backward(grad)
        found.append((out, given.grad, layer.eval()(x)))
    for own, usual in zip(*found, strict=True):
        assert torch.allclose(own, usual)
    assert torch.equal(DroppedReLU(0.0).train()(x), x.relu())
