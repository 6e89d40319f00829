"""Rows of tables: the same as torch's own, forward and back, at widths on both sides of where ours is taken."""

import pytest
import torch
import torch.nn.functional as F

from raysys.model.lookup import look_up


@pytest.mark.parametrize("width", [1, 8, 64, 65])
@pytest.mark.parametrize("shape", [(), (0,), (50,), (7, 3, 2)])
def test_rows_and_gradient_are_those_of_torch(width, shape):
    table, indices = torch.randn(11, width), torch.randint(11, shape)
    found = []
    for rows_of in (look_up, F.embedding):
        given = table.clone().requires_grad_()
        rows = rows_of(indices, given)
        (rows**2).sum().backward()
        found.append((rows, given.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


def test_the_gradient_has_a_gradient():
    table, indices = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([1, 1, 4])
    assert torch.autograd.gradgradcheck(lambda given: look_up(indices, given) ** 3, (table,))


def test_a_frozen_table_gets_none():
    table = torch.randn(5, 3)
    assert not look_up(torch.tensor([2]), table).requires_grad
