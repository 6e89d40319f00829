"""Every weighting: one finite loss and one weight per task, and a gradient for each."""

import pytest
import torch

from raysys.weighting import WEIGHTINGS

NAMES = ("a", "b", "c")


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_combines_losses(kind):
    part = WEIGHTINGS[kind]
    weighting = part(part.Config(), NAMES)
    losses_T = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    combined = weighting.combine(losses_T, lambda: torch.eye(3))
    assert combined.total.shape == ()
    assert combined.total.isfinite()
    assert combined.weights_T.shape == (3,)
    assert (combined.weights_T >= 0).all()
    combined.total.backward()
    assert losses_T.grad is not None
    assert losses_T.grad.isfinite().all()
