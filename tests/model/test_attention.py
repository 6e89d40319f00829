"""Attention with dropout of its weights beside the plain formula."""

import pytest
import torch
import torch.nn.functional as F

from raysys.model import attention
from raysys.model.attention import attend
from raysys.model.dropout import draw_kept

USERS, HEADS, LENGTH, WIDTH = 7, 2, 9, 4


def _parts():
    generator = torch.Generator().manual_seed(0)
    shape = (3, USERS, LENGTH, HEADS, WIDTH)
    parts = torch.randn(shape, generator=generator, dtype=torch.float64).transpose(2, 3)
    return [part.detach().requires_grad_() for part in parts]


def _seen():
    seen = torch.rand(USERS, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.6
    seen[:, 0] = True
    return seen


def _plain(q, k, v, seen, dropout, users_at_a_time):
    """The formula, all users at once, with the weights left out that the function leaves out after the same seed."""
    scores = q @ k.transpose(-2, -1) / WIDTH**0.5
    visible = torch.ones(LENGTH, LENGTH).tril().bool() if seen is None else seen[:, None, None, :]
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    drawn = [draw_kept(part.shape, dropout) for part in weights.split(users_at_a_time)]
    return weights * torch.cat([kept for kept, _ in drawn]) * drawn[0][1] @ v


@pytest.mark.parametrize("users_at_a_time", [1, 3, USERS])
@pytest.mark.parametrize("seen", [None, _seen()], ids=["causal", "marked"])
def test_values_and_gradients_are_those_of_the_formula(seen, users_at_a_time, monkeypatch):
    monkeypatch.setattr(attention, "_GROUP_BYTES", users_at_a_time * HEADS * LENGTH**2 * 8)
    found = []
    for function, more in ((attend, ()), (_plain, (users_at_a_time,))):
        parts = _parts()
        torch.manual_seed(3)
        out = function(*parts, seen, 0.3, *more)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        found.append([out, *(part.grad for part in parts)])
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-9)


@pytest.mark.parametrize("seen", [None, _seen()], ids=["causal", "marked"])
def test_without_dropout_it_is_torchs(seen):
    parts = _parts()
    mask = torch.ones(LENGTH, LENGTH).tril().bool() if seen is None else seen[:, None, None, :]
    assert torch.allclose(attend(*parts, seen, 0.0), F.scaled_dot_product_attention(*parts, mask))


def test_a_mean_over_many_draws_is_attention_without_dropout():
    parts = _parts()
    torch.manual_seed(0)
    mean = sum(attend(*parts, None, 0.2) for _ in range(3000)) / 3000
    assert (mean - attend(*parts, None, 0.0)).abs().max() < 0.1


def test_it_keeps_a_byte_per_weight():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda kept: kept):
        attend(*_parts(), None, 0.2)
    weights = [tensor for tensor in saved if tensor.shape == (USERS, HEADS, LENGTH, LENGTH)]
    assert [tensor.element_size() for tensor in weights] == [1]
