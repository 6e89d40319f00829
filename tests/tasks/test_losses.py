import pytest
import torch
import torch.nn.functional as F

from raysys.tasks.losses import full_softmax, squared_error


def _inputs(rows=300, items=500, width=16):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, width, generator=generator, requires_grad=True)
    table = torch.randn(items, width, generator=generator, requires_grad=True)
    return states, table, torch.randint(items, (rows,), generator=generator)


def test_full_softmax_equals_cross_entropy_and_its_gradients():
    states, table, targets = _inputs()
    loss = full_softmax(states, table, targets) * 0.37
    ours = torch.autograd.grad(loss, (states, table))
    expected = F.cross_entropy(states @ table.T, targets, reduction="sum") * 0.37
    theirs = torch.autograd.grad(expected, (states, table))
    assert torch.allclose(loss, expected, rtol=1e-5)
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference, atol=1e-4)


def test_bfloat16_products_stay_close():
    states, table, targets = _inputs()
    exact = torch.autograd.grad(full_softmax(states, table, targets), (states, table))
    rough = torch.autograd.grad(full_softmax(states, table, targets, torch.bfloat16), (states, table))
    for mine, reference in zip(rough, exact, strict=True):
        assert (mine - reference).norm() / reference.norm() < 0.02


def test_no_rows_is_a_zero_with_a_graph():
    states, table, _ = _inputs()
    loss = full_softmax(states[:0], table, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert table.grad is not None
    assert table.grad.abs().sum() == 0


def test_huge_logits_do_not_overflow():
    states, table, targets = _inputs()
    assert full_softmax(states * 1e4, table, targets).isfinite()


def test_squared_error_is_a_sum():
    assert squared_error(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])).item() == pytest.approx(5.0)
