"""Five tasks at once, under every sharing and every weighting, on one rank and on two."""

import subprocess
import sys

import five_tasks
import pytest
import torch
from five_tasks import DRY, TASKS, take_steps, weighting_nodes

from raysys.configfile import dump_yaml
from raysys.model.sharing import SHARINGS

pytestmark = pytest.mark.thorough  # seconds each: not before every commit

NODES = weighting_nodes()
STEPS_OF_RANKS = 50
SMOOTH = {"kind": "sgd", "learning_rate": 0.02, "warmup_steps": 0}
"""Where rounding decides on which side of a kink a unit lies, Adam makes a step of its own size of the difference."""


def _config(config_of, sharing, weighting, batch_size, **nodes):
    if weighting["kind"] == "gramian":
        pytest.importorskip("torchjd")
    return config_of(
        model={
            "width": 16,
            "max_length": 12,
            "dropout": 0.0,
            "backbone": {"num_blocks": 1},
            "sharing": {"kind": sharing, "hidden": 16, **DRY},
        },
        tasks=TASKS,
        weighting=weighting,
        training={"epochs": 9, "threads": 1, "batch_size": batch_size},
        **nodes,
    )


def _product():
    """Every sharing under every weighting; unmarked are each weighting once, the sharings taking turns."""
    sharings = list(SHARINGS)
    for at, name in enumerate(NODES):
        for sharing in sharings:
            quick = sharing == sharings[at % len(sharings)]
            yield pytest.param(sharing, name, marks=() if quick else pytest.mark.thorough)


@pytest.mark.parametrize(("sharing", "name"), list(_product()))
def test_every_sharing_trains_under_every_weighting(config_of, contract_dataset, tmp_path, sharing, name):
    """Two epochs of ten steps; the loss is that of the tasks that the weighting follows."""
    config = _config(config_of, sharing, NODES[name], 20)
    losses, weights = take_steps(config, contract_dataset, tmp_path / "run", 20)
    assert losses.isfinite().all()
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights.sum(1) > 0).all()
    first, last = (part.mean(0)[1:] for part in (losses[:5], losses[-5:]))
    followed = weights.mean(0) > 0.02 * weights.mean(0).max()
    change = (last / first)[followed]
    assert change.min() < 0.98, dict(zip(TASKS, (last / first).tolist(), strict=True))


@pytest.mark.process
def test_two_ranks_take_the_steps_of_one_under_every_weighting(config_of, contract_dataset, tmp_path):
    """For fifty steps losses and weights are the same to 1e-5; one pair of processes takes those of all weightings."""
    configs = {name: _config(config_of, "shared_bottom", node, 12, optimizer=SMOOTH) for name, node in NODES.items()}
    plan = {name: config.model_dump(mode="json") for name, config in configs.items()}
    (tmp_path / "plan.yaml").write_text(dump_yaml({"steps": STEPS_OF_RANKS, "configs": plan}))
    command = [sys.executable, five_tasks.__file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank), "2"]) for rank in (0, 1)]
    one = {}
    for name, config in configs.items():
        one[name] = take_steps(config, contract_dataset, tmp_path / f"{name}-one", STEPS_OF_RANKS)
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    two, apart = torch.load(tmp_path / "found.pt"), {}
    for name in NODES:
        (losses, weights), (losses_of_two, weights_of_two) = one[name], two[name]
        of_losses = (losses_of_two / losses - 1).abs().max().item()
        of_weights = ((weights_of_two - weights).abs() / weights.max(1, keepdim=True).values).max().item()
        if not max(of_losses, of_weights) < 1e-5:  # not a number is apart too
            apart[name] = f"losses {of_losses:.1e}, weights {of_weights:.1e}"
    assert not apart
