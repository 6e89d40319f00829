"""Tasks made to conflict, or not to: what weightings do to the loss of the task that fares worse."""

from typing import get_args

import pytest
import torch

from raysys.training.gram import task_gram
from raysys.training.parallel import Parallel
from raysys.weighting import WEIGHTINGS

pytestmark = pytest.mark.thorough  # seconds each: not before every commit

pytest.importorskip("torchjd")

ALONE = Parallel(0, 1, torch.device("cpu"))
NAMES = ("a", "b")
METHODS = get_args(WEIGHTINGS["gramian"].Config.model_fields["method"].annotation)
# The others stop at any point where the tasks are in balance, wherever on the front it lies, or follow one task.
HELPFUL = ("upgrad", "dualproj", "pcgrad", "imtl_g", "nash_mtl")


def _train(weighting, inputs, targets, scales, columns, steps=300):
    """Fit one shared linear map to the targets of all tasks; returns each task's loss over that of the start."""
    part = WEIGHTINGS[weighting["kind"]]
    module = part(part.Config(**weighting), NAMES)
    shared = torch.zeros(inputs.shape[1], 1 + max(columns), requires_grad=True)
    optimizer = torch.optim.Adam([shared, *module.parameters()], lr=0.02)
    seen = []
    for step in range(steps):
        states = inputs @ shared
        tasks = zip(scales, targets, columns, strict=True)
        losses_T = torch.stack(
            [scale * (states[:, column] - target).square().mean() for scale, target, column in tasks]
        )
        seen.append(losses_T.detach())
        combined = module.combine(losses_T, lambda losses=losses_T, states=states: task_gram(losses, (states,), ALONE))
        optimizer.zero_grad()
        combined.total.backward()
        optimizer.step()
        if step % 20 == 19:
            module.end_epoch(torch.stack(seen[-20:]).mean(0))
    return (seen[-1] / seen[0]).tolist()


def _conflict(weighting):
    """Both tasks want one direction; along another, a pulls with nine times the force of b against it."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    both, apart = inputs @ torch.randn(8), inputs @ torch.randn(8)
    return _train(weighting, inputs, (both + apart, both - apart), (9.0, 1.0), (0, 0))


def _independence(weighting):
    """Each task has states of its own."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    return _train(weighting, inputs, (inputs @ torch.randn(8), inputs @ torch.randn(8)), (1.0, 1.0), (0, 1))


@pytest.mark.parametrize("method", HELPFUL)
def test_the_worse_of_two_conflicting_tasks_gains(method):
    fixed = _conflict({"kind": "fixed"})
    assert max(fixed) == fixed[1] > 0.8, "the strong task must win for this test to say anything"
    assert max(_conflict({"kind": "gramian", "method": method})) < 0.75 * max(fixed)


@pytest.mark.parametrize("kind", ["famo", "gradnorm"])
def test_weightings_that_look_at_sizes_alone_help_the_weak_task_too(kind):
    assert max(_conflict({"kind": kind})) < 0.75 * max(_conflict({"kind": "fixed"}))


# mgda and fairgrad turn to the task with the smallest gradient, though it be fitted; krum follows one task.
@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("mgda", "fairgrad", "krum")])
def test_independent_tasks_lose_nothing(method):
    assert max(_independence({"kind": "fixed"})) < 0.01
    assert max(_independence({"kind": "gramian", "method": method})) < 0.01
