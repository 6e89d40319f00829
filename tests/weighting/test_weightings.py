import math
import sys

import pytest
import torch
from pydantic import ValidationError

from raysys.errors import UserError
from raysys.weighting import WEIGHTINGS

NAMES = ("a", "b")


def _make(kind, names=NAMES, **settings):
    if kind == "gramian":
        pytest.importorskip("torchjd")
    part = WEIGHTINGS[kind]
    return part(part.Config(**settings), names)


def _weights(weighting, losses, gram=None):
    return weighting.combine(torch.tensor(losses), lambda: gram).weights_T.tolist()


def test_a_log_variance_starts_at_the_first_loss_and_follows_it():
    weighting = _make("uncertainty")
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    assert _weights(weighting, [8.0, 0.0]) == pytest.approx([1 / 16, 1 / 2])
    assert _weights(weighting, [8.0, 0.1]) == pytest.approx([1 / 16, 5.0])
    for _ in range(300):
        optimizer.zero_grad()
        weighting.combine(torch.tensor([2.0, 0.0]), lambda: None).total.backward()
        optimizer.step()
    assert weighting.log_variances_T.tolist() == pytest.approx([math.log(2.0), math.log(0.1)], abs=1e-3)


def test_dwa_favours_the_loss_that_falls_slowly_from_the_third_epoch_on():
    weighting = _make("dwa")
    weighting.end_epoch(torch.tensor([2.0, 4.0]))
    assert _weights(weighting, [1.0, 1.0]) == [1.0, 1.0]
    weighting.end_epoch(torch.tensor([1.0, 4.0]))
    sharp, even = math.exp(0.5 / 2), math.exp(1 / 2)
    assert _weights(weighting, [1.0, 1.0]) == pytest.approx([2 * sharp / (sharp + even), 2 * even / (sharp + even)])


def test_famo_favours_the_loss_that_falls_slowly_and_its_weights_sum_to_one():
    weighting = _make("famo")
    assert _weights(weighting, [4.0, 1.0]) == pytest.approx([0.2, 0.8])
    for step in range(100):
        weights = _weights(weighting, [4.0 * 0.9**step, 1.0])
    assert sum(weights) == pytest.approx(1.0)
    assert weighting.logits_T[1] - weighting.logits_T[0] > 2
    frozen = weighting.logits_T.clone()
    weighting.config = weighting.Config(decay=0.0)
    weighting.mean_T.zero_()
    _weights(weighting, [0.0, 1.0])  # no target for a, no change for b
    assert torch.equal(weighting.logits_T, frozen)


def test_gradnorm_evens_norms_and_gives_slow_tasks_more():
    gram = torch.diag(torch.tensor([1.0, 100.0]))
    weighting = _make("gradnorm")
    for _ in range(300):
        weights = _weights(weighting, [1.0, 1.0], gram)
    assert weights == pytest.approx([20 / 11, 2 / 11], rel=1e-2)
    for _ in range(300):
        weights = _weights(weighting, [0.25, 1.0], gram)
    assert 10 * weights[1] / weights[0] == pytest.approx(4**1.5, rel=1e-2)


def test_a_task_without_a_gradient_is_left_out():
    gram = torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
    names = ("a", "b", "c")
    without = _weights(_make("gramian"), [1.0, 1.0], gram[[0, 2]][:, [0, 2]])
    assert _weights(_make("gramian", names), [1.0, 0.0, 1.0], gram) == [without[0], 1.0, without[1]]
    alone = torch.diag(torch.tensor([0.0, 3.0, 0.0]))
    assert _weights(_make("gramian", names), [0.0, 1.0, 0.0], alone) == [1.0, 1.0, 1.0]


def test_tasks_without_conflict_weigh_as_under_fixed_weights():
    for method in ("upgrad", "dualproj", "pcgrad", "gradvac", "imtl_g", "aligned_mtl", "nash_mtl", "fairgrad"):
        weights = _weights(_make("gramian", method=method), [1.0, 1.0], 1e-9 * torch.eye(2))
        assert weights == pytest.approx([1.0, 1.0], rel=1e-3), method


def test_nash_weights_solve_their_condition_at_any_scale():
    rows = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).double()
    rows = rows * torch.tensor([[1e-5], [1e3]])
    gram = rows @ rows.T
    weights_T = torch.tensor(_weights(_make("gramian", method="nash_mtl"), [1.0, 1.0], gram), dtype=torch.float64)
    gains_T = weights_T * (gram @ weights_T)
    assert torch.allclose(gains_T / gains_T.mean(), torch.ones(2, dtype=torch.float64), rtol=1e-3)


def test_smoothing_keeps_a_share_of_the_last_weight():
    plain, smooth = _make("gramian", method="imtl_g"), _make("gramian", method="imtl_g", smoothing=0.75)
    first, second = torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([4.0, 1.0]))
    before, after = _weights(plain, [1.0, 1.0], first), _weights(plain, [1.0, 1.0], second)
    assert _weights(smooth, [1.0, 1.0], first) == before
    expected = [0.75 * old + 0.25 * new for old, new in zip(before, after, strict=True)]
    assert _weights(smooth, [1.0, 1.0], second) == pytest.approx(expected)


def test_a_parameter_of_another_method_is_refused():
    config = WEIGHTINGS["gramian"].Config
    with pytest.raises(ValidationError, match="c is a parameter of cagrad, and the method is upgrad"):
        config(c=0.1)
    assert config(method="cagrad", c=0.1).c == 0.1


def test_gramian_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "raysys.weighting.methods", None)
    part = WEIGHTINGS["gramian"]
    with pytest.raises(UserError, match=r"pip install 'raysys\[gramian\]'"):
        part(part.Config(), NAMES)


def test_a_task_whose_gradient_is_not_shared_learns_as_it_would_alone():
    """A step of users who did nothing before: their losses do not reach the states, and yet there is much to learn."""
    gram = torch.diag(torch.tensor([0.0, 3.0, 0.0]))
    assert _weights(_make("gramian", ("a", "b", "c")), [2.0, 1.0, 0.0], gram) == [1.0, 1.0, 1.0]
    assert _weights(_make("gramian"), [1.0, 2.0], torch.zeros(2, 2)) == [1.0, 1.0]
