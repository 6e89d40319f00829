"""Every sharing: a view per task, gates that can be read, and nobody left without a gradient."""

import pytest
import torch

from raysys.data.batches import make_batch
from raysys.data.schema import Split
from raysys.model.recommender import ModelConfig
from raysys.model.sharing import SHARINGS, SharingContext
from raysys.model.told import Told
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask

PAIRS, USERS, WIDTH, TASK_NAMES = 7, 3, 10, ("click", "like", "stay")
USERS_AT, USERS_WIDTH = 2, 4
CONFIGS = {
    "next_item": {},
    "click": {},
    "purchase": {"kind": "conversion", "label": "purchase"},
    "watch_time": {"duration": "duration"},
    "rating": {},
}


@pytest.fixture(params=list(SHARINGS))
def sharing(request):
    """A sharing of three tasks."""
    torch.manual_seed(0)
    part = SHARINGS[request.param]
    return part(part.Config(hidden=6), SharingContext(WIDTH, TASK_NAMES)).eval()


def _told(sharing, tasks=TASK_NAMES, pairs=PAIRS):
    generator = torch.Generator().manual_seed(1)
    names = ("", *tasks) if sharing.own_fields else ("",)
    users_N = (torch.arange(PAIRS) * USERS // PAIRS)[:pairs]

    def told():
        users_BU = torch.randn(USERS, USERS_WIDTH, generator=generator)
        pairs_NP = torch.randn(PAIRS, WIDTH - USERS_WIDTH, generator=generator)
        return Told(pairs_NP[:pairs], users_BU, users_N, USERS_AT)

    return {name: told() for name in names}


def test_every_task_gets_a_view(sharing):
    shared = sharing(_told(sharing))
    assert {name: view.shape for name, view in shared.by_task.items()} == dict.fromkeys(TASK_NAMES, (PAIRS, 6))


def test_columns_of_users_count_as_if_written_beside_each_pair(sharing):
    told = _told(sharing)
    written = {name: Told(_rows(rows)) for name, rows in told.items()}
    for name, view in sharing(told).by_task.items():
        assert torch.allclose(view, sharing(written).by_task[name], atol=1e-6)


def _rows(told):
    before_NP, after_NP = told.pairs_NP.tensor_split((USERS_AT,), dim=1)
    return torch.cat([before_NP, told.users_BU[told.rows_N], after_NP], dim=1)


def test_gates_are_shares(sharing):
    for gate in sharing(_told(sharing)).gates.values():
        assert (gate >= 0).all()
        assert torch.allclose(gate.sum(-1), torch.ones(PAIRS))


def test_every_expert_of_a_gate_has_a_name(sharing):
    gates, names = sharing(_told(sharing)).gates, sharing.expert_names()
    assert {task: len(own) for task, own in names.items()} == {task: gate.shape[1] for task, gate in gates.items()}
    assert all(len(set(own)) == len(own) for own in names.values())


def test_pairs_do_not_see_each_other(sharing):
    some = sharing(_told(sharing, pairs=3))
    for name, view in sharing(_told(sharing)).by_task.items():
        assert torch.allclose(view[:3], some.by_task[name], atol=1e-6)


def test_all_tasks_together_reach_every_parameter(sharing):
    sum(view.sum() for view in sharing.train()(_told(sharing)).by_task.values()).backward()
    idle = [name for name, parameter in sharing.named_parameters() if parameter.grad is None]
    assert not idle


def test_one_task_is_enough_and_no_pair_too(sharing):
    part = type(sharing)
    alone = part(part.Config(hidden=6), SharingContext(WIDTH, ("click",)))
    assert alone(_told(alone, ("click",))).by_task["click"].shape == (PAIRS, 6)
    nobody = _told(alone, ("click",), pairs=0)
    assert alone(nobody).by_task["click"].shape == (0, 6)


@pytest.mark.parametrize("kind", list(SHARINGS))
def test_several_tasks_train_under_it(kind, contract_dataset):
    from raysys.data.reader import ShardReader

    torch.manual_seed(0)
    configs = {name: TASKS[node.get("kind", name)].Config(**node) for name, node in CONFIGS.items()}
    model = ModelConfig(width=16, max_length=12, dropout=0.0, sharing={"kind": kind, "hidden": 16})
    network = MultiTask(model, configs, contract_dataset.manifest)
    network.observe(contract_dataset)
    reader = ShardReader(contract_dataset, columns=True)
    batch = make_batch(reader.rows(torch.arange(64).numpy()), Split.TRAIN, reader.is_history, 12, key=1)
    optimizer, seen = torch.optim.AdamW(network.parameters(), lr=0.01), []
    for _ in range(30):
        views = network.prepare(batch)
        losses = network(views).totals_T / network.counts(views)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        seen.append(losses.detach())
    assert torch.stack(seen).isfinite().all()
    assert (seen[-1] < seen[0]).all(), f"from {seen[0].tolist()} to {seen[-1].tolist()}"
