"""Five tasks under one weighting, step by step: in the process that asks, or as one rank of several.

As a program it is a rank: `five_tasks.py FOLDER RANK WORLD_SIZE` takes the steps of every config of the folder in turn
in one process group, because starting it costs seconds, and rank 0 writes what it saw.
"""

import sys
from pathlib import Path
from typing import get_args

import torch
import torch.distributed as dist

from raysys.config import RunConfig
from raysys.configfile import build, read_yaml
from raysys.data.dataset import Dataset
from raysys.training.loop import TrainingLoop
from raysys.training.start import build_network
from raysys.weighting import WEIGHTINGS

DRY = {"dropout": 0.0}
TASKS = {
    "next_item": {},
    "click": DRY,
    "purchase": {"kind": "conversion", "label": "purchase", **DRY},
    "watch_time": {"duration": "duration", **DRY},
    "rating": DRY,
}


def weighting_nodes():
    """Return every weighting by name, and one that has methods with each of them."""
    nodes = {}
    for kind, part in WEIGHTINGS.items():
        field = part.Config.model_fields.get("method")
        if field is None:
            nodes[kind] = {"kind": kind}
        else:
            nodes |= {method: {"kind": kind, "method": method} for method in get_args(field.annotation)}
    return nodes


def take_steps(config: RunConfig, dataset: Dataset, folder: Path, count: int):
    """Train for so many steps; returns the losses [steps, 1 + T] and the weights [steps, T] of each."""
    folder.mkdir(exist_ok=True)
    loop = TrainingLoop(config, dataset, build_network(config, dataset), folder, show=False)
    loop.network.train()
    learner, losses, weights, epoch = loop.learner, [], [], 0
    while len(losses) < count:
        order = loop.feed.order(epoch)[: count - len(losses)]
        first, so_far = len(losses), torch.zeros(len(config.tasks), dtype=torch.float64)
        for step, parts in enumerate(loop.feed.batches(epoch, order, first), start=first):
            losses.append(learner.step(step, parts))
            weights.append(learner.balance.weights_T - so_far)
            so_far = learner.balance.weights_T.clone()
        learner.end_epoch(torch.stack(losses[first:]).mean(0)[1:].tolist())
        epoch += 1
    return torch.stack(losses), torch.stack(weights)


def _be_a_rank(folder: Path, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    plan = read_yaml(folder / "plan.yaml")
    found = {}
    for name, node in plan["configs"].items():
        config = build(RunConfig, node, name)
        found[name] = take_steps(config, Dataset.open(config.dataset), folder / name, plan["steps"])
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    _be_a_rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
