"""Every weighting: finite weights and one loss, a gradient for each task, nothing lost in a checkpoint, ranks alike."""

from typing import get_args

import pytest
import torch

from raysys.weighting import WEIGHTINGS

NAMES = ("a", "b", "c")
NONE = torch.zeros(3, 3)


def _cases():
    """Every kind with its defaults, and one that has methods with each of them."""
    for kind, part in WEIGHTINGS.items():
        field = part.Config.model_fields.get("method")
        methods = get_args(field.annotation) if field else (None,)
        for method in methods:
            settings = {} if method is None else {"method": method}
            yield pytest.param((kind, settings), id="-".join(filter(None, (kind, method))))


@pytest.fixture(params=_cases())
def make(request):
    """Make the weighting for tasks of the given names."""
    kind, settings = request.param
    if kind == "gramian":
        pytest.importorskip("torchjd")
    part = WEIGHTINGS[kind]

    def weighting(names=NAMES):
        made = part(part.Config(**settings), names)
        made.settings = settings
        return made

    return weighting


def _gram(seed, scales=(1.0, 1.0, 1.0)):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 20, generator=generator) * torch.tensor(scales).unsqueeze(1)
    return rows @ rows.T


def _combine(weighting, losses, gram):
    losses_T = torch.tensor(losses, requires_grad=True)
    combined = weighting.combine(losses_T, lambda: gram)
    assert combined.total.shape == ()
    assert combined.total.isfinite()
    assert combined.weights_T.shape == losses_T.shape
    assert not combined.weights_T.requires_grad
    assert combined.weights_T.isfinite().all()
    assert (combined.weights_T >= 0).all()
    combined.total.backward()
    assert losses_T.grad is not None, "DDP would wait for ever for the gradients of the tasks"
    assert torch.allclose(losses_T.grad, combined.weights_T), "the weights are those of the gradients"
    return combined.weights_T


def _steps(weighting, first, last):
    """Take steps with losses and gradients of their own, an epoch being three; returns the weights of each."""
    found = []
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        losses = (torch.rand(3, generator=generator) + 0.5).tolist()
        found.append(_combine(weighting, losses, _gram(step)))
        if step % 3 == 2:
            weighting.end_epoch(torch.tensor(losses, dtype=torch.float64))
    return torch.stack(found)


def test_every_task_with_targets_learns(make):
    weighting = make()
    weights_T = _combine(weighting, [1.0, 2.0, 3.0], torch.eye(3))
    assert (weights_T > 0).sum() == (1 if weighting.settings.get("method") == "krum" else 3)  # krum follows one task


def test_one_task_alone_works(make):
    weighting = make(("a",))
    for loss in (2.0, 1.0, 0.0, 0.5):
        weights_T = _combine(weighting, [loss], torch.tensor([[loss]]))
        assert loss == 0 or weights_T.item() > 0
        weighting.end_epoch(torch.tensor([loss], dtype=torch.float64))


@pytest.mark.parametrize("losses", [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 1.0]], ids=str)
def test_tasks_without_a_target_do_no_harm(make, losses):
    weighting = make()
    known_T = torch.tensor(losses) > 0
    gram = _gram(0) * known_T.outer(known_T)
    for _ in range(3):
        _combine(weighting, losses, gram)
        weighting.end_epoch(torch.tensor(losses, dtype=torch.float64))
    weights_T = _combine(weighting, [1.0, 2.0, 3.0], torch.eye(3))
    assert weights_T.sum() > 0


GRAMS = {
    "none": NONE,
    "identical": torch.ones(3, 3),
    "opposing": torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]]),
    "opposing pair": torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    "tiny": _gram(1) * 1e-20,
    "huge": _gram(1) * 1e20,
    "uneven": _gram(2, (1e-4, 1.0, 1e4)),
    "very uneven": _gram(2, (1e-8, 1.0, 1e8)),
    "nearly singular": _gram(3) * torch.tensor([1.0, 1.0, 1e-7]).outer(torch.tensor([1.0, 1.0, 1e-7])),
    "rounded below 0": torch.ones(3, 3) - 1e-6 * torch.eye(3),
    "not a number": torch.full((3, 3), torch.nan),
}


@pytest.mark.parametrize("name", GRAMS)
def test_no_gradients_make_the_weights_other_than_numbers(make, name):
    weighting = make()
    for step in range(4):
        _combine(weighting, [1.0, 2.0, 3.0], GRAMS[name])
        _combine(weighting, [1.0, 2.0, 3.0], _gram(step))


def test_a_checkpoint_holds_everything(make):
    whole, broken, resumed = make(), make(), make()
    expected = _steps(whole, 0, 14)
    _steps(broken, 0, 7)
    state = {name: tensor.clone() for name, tensor in broken.state_dict().items()}
    resumed.load_state_dict(state)
    assert torch.equal(_steps(resumed, 7, 14), expected[7:])


def test_ranks_weigh_alike_whatever_their_generators(make):
    found = []
    for rank in (0, 1):
        weighting = make()
        torch.manual_seed(rank)
        before = torch.get_rng_state()
        found.append(_steps(weighting, 0, 8))
        assert torch.equal(torch.get_rng_state(), before), "dropout after it would draw something else"
    assert torch.equal(found[0], found[1])
