import math

import pytest
import torch
import torch.nn.functional as F

from raysys.tasks import losses
from raysys.tasks.losses import full_softmax, item_scores, squared_error


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


def test_chunks_of_any_size_make_the_same_loss(monkeypatch):
    states, table, targets = _inputs()
    whole = torch.autograd.grad(full_softmax(states, table, targets), (states, table))
    monkeypatch.setattr(losses, "_CHUNK_BYTES", {"cpu": 1})
    for mine, reference in zip(
        torch.autograd.grad(full_softmax(states, table, targets), (states, table)), whole, strict=True
    ):
        assert torch.allclose(mine, reference, atol=1e-5)


def test_item_scores_equal_gathered_products_and_their_gradients():
    states, table, _ = _inputs(rows=40)
    items = torch.randint(500, (40, 7), generator=torch.Generator().manual_seed(1))
    items[:, 1] = items[:, 0]  # the same item twice
    weights = torch.randn(40, 7, generator=torch.Generator().manual_seed(2))
    expected = torch.einsum("nd,nkd->nk", states, table[items])
    assert torch.allclose(item_scores(states, table, items), expected, atol=1e-5)
    ours = torch.autograd.grad((item_scores(states, table, items) * weights).sum(), (states, table))
    theirs = torch.autograd.grad((expected * weights).sum(), (states, table))
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference, atol=1e-4)


def test_item_scores_of_no_rows_keep_a_graph():
    states, table, _ = _inputs()
    item_scores(states[:0], table, torch.zeros(0, 3, dtype=torch.long)).sum().backward()
    assert table.grad.abs().sum() == 0


def _scores():
    positive = torch.tensor([1.0, -0.5])
    negative = torch.tensor([[0.2, -1.0, 3.0], [0.0, 2.0, -math.inf]])
    return positive, negative


def _plain(loss_of_row):
    """Sum a loss over rows in plain floats."""
    positive, negative = _scores()
    return sum(loss_of_row(p, row) for p, row in zip(positive.tolist(), negative.tolist(), strict=True))


def _log_sigmoid(x):
    return 0.0 if x == math.inf else -math.log1p(math.exp(-x))


def test_sampled_softmax_by_hand():
    def by_hand(p, row):
        return math.log(math.exp(p) + sum(math.exp(n) for n in row)) - p

    assert losses.sampled_softmax(*_scores()).item() == pytest.approx(_plain(by_hand), rel=1e-6)


def test_binary_cross_entropy_by_hand():
    def by_hand(p, row):
        return -(_log_sigmoid(p) + sum(_log_sigmoid(-n) for n in row)) / 4

    assert losses.binary_cross_entropy(*_scores()).item() == pytest.approx(_plain(by_hand), rel=1e-6)


def test_generalised_binary_cross_entropy_by_hand():
    power = losses.gbce_power(num_negatives=3, num_items=11, calibration=0.75)
    alpha = 3 / 10
    assert power == pytest.approx(alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha))

    def by_hand(p, row):
        return -(power * _log_sigmoid(p) + sum(_log_sigmoid(-n) for n in row)) / 4

    found = losses.generalised_binary_cross_entropy(*_scores(), power).item()
    assert found == pytest.approx(_plain(by_hand), rel=1e-6)


def test_gbce_without_calibration_is_bce():
    assert losses.gbce_power(num_negatives=3, num_items=11, calibration=0.0) == pytest.approx(1.0)


def test_bpr_by_hand():
    def by_hand(p, row):
        return -sum(_log_sigmoid(p - n) for n in row) / 3

    assert losses.bayesian_personalised_ranking(*_scores()).item() == pytest.approx(_plain(by_hand), rel=1e-6)


def test_triplet_by_hand():
    def by_hand(p, row):
        return sum(max(0.0, 0.5 + n - p) for n in row) / 3

    assert losses.triplet(*_scores(), 0.5).item() == pytest.approx(_plain(by_hand), rel=1e-6)


@pytest.mark.parametrize("name", ["sampled_softmax", "binary_cross_entropy", "bayesian_personalised_ranking"])
def test_an_excluded_negative_has_no_gradient(name):
    positive, negative = (values.requires_grad_() for values in _scores())
    getattr(losses, name)(positive, negative).backward()
    assert negative.grad[1, 2] == 0
    assert negative.grad.isfinite().all()
    assert (negative.grad[:, :2] > 0).all()


def test_mixed_negatives_lie_between_the_hardest():
    negative = torch.tensor([[5.0, 1.0, 3.0, -2.0]])
    pairs = torch.tensor([[[0, 1], [1, 1]]])
    shares = torch.tensor([[0.25, 0.9]])
    assert losses.mixed_negatives(negative, pairs, shares).tolist() == [[0.25 * 5 + 0.75 * 3, 3.0]]


def test_mixing_with_an_excluded_negative_is_excluded():
    negative = torch.tensor([[5.0, -math.inf]])
    mixed = losses.mixed_negatives(negative, torch.tensor([[[0, 1]]]), torch.tensor([[0.5]]))
    assert mixed.item() == -math.inf
