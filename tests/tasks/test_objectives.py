import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raysys.configfile import build
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from raysys.tasks.negatives import Asked, Sampler, shared_targets
from raysys.tasks.next_item import NextItem
from raysys.tasks.objectives import OBJECTIVES

ITEMS, WIDTH = 40, 8


class _Table(torch.nn.Module):
    """Item vectors that learn."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(0)))

    def forward(self, items):
        return self.weight[items - FIRST_ITEM]

    def table(self):
        return self.weight


def _asked(rows=60, key=3):
    generator = torch.Generator().manual_seed(1)
    return Asked(
        queries_ND=torch.randn(rows, WIDTH, generator=generator, requires_grad=True),
        targets_N=torch.randint(ITEMS, (rows,), generator=generator),
        rows_N=torch.arange(rows) // 3,
        places_N=torch.arange(rows) % 3,
        key=key,
    )


def _part(asked, chosen):
    rows = torch.tensor(list(chosen), dtype=torch.long)
    fields = (asked.queries_ND, asked.targets_N, asked.rows_N, asked.places_N)
    return Asked(*(field[rows] for field in fields), asked.key)


def _objective(kind, dataset=None, **settings):
    part = OBJECTIVES[kind]
    objective = part(part.Config(**settings), ITEMS)
    if dataset is not None:
        objective.observe(dataset)
    return objective


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_halves_add_up_because_draws_go_by_place(kind):
    asked, table = _asked(), _Table()
    whole = _objective(kind)(asked, table)
    halves = _objective(kind)(_part(asked, range(25)), table) + _objective(kind)(_part(asked, range(25, 60)), table)
    assert whole.item() == pytest.approx(halves.item(), rel=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in OBJECTIVES if kind != "full_softmax"])
def test_another_step_draws_others(kind):
    table = _Table()
    assert _objective(kind)(_asked(key=3), table).item() != _objective(kind)(_asked(key=4), table).item()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_learning_lowers_it(kind):
    torch.manual_seed(0)
    table, targets = _Table(), torch.randint(ITEMS, (60,))
    queries = torch.nn.Parameter(torch.randn(60, WIDTH) * 0.1)
    optimizer, objective = torch.optim.Adam([*table.parameters(), queries], lr=0.1), _objective(kind)
    seen = []
    for step in range(60):
        loss = objective(Asked(queries, targets, torch.arange(60), torch.zeros(60, dtype=torch.long), step), table)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert np.mean(seen[-5:]) < 0.5 * np.mean(seen[:5])
    ranks = (queries @ table.table().T).argsort(1, descending=True)
    assert (ranks[:, :5] == targets.unsqueeze(1)).any(1).float().mean() > 0.8


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_no_targets_still_make_a_graph(kind):
    table = _Table()
    loss = _objective(kind)(_part(_asked(), []), table)
    loss.backward()
    assert loss.item() == 0
    assert table.weight.grad is not None


@pytest.mark.parametrize(
    "settings",
    [{}, {"popularity": 1.0}, {"in_batch": 30}, {"popularity": 0.5, "in_batch": 60}],
    ids=["uniform", "popular", "in-batch", "both"],
)
def test_corrected_sample_estimates_the_full_softmax(settings, popular_dataset):
    """The estimate of the partition is unbiased, so over many steps it meets the full one; without logq it cannot."""
    asked, table = _asked(rows=200), _Table()
    small = Asked(asked.queries_ND * 0.3, asked.targets_N, asked.rows_N, asked.places_N, 0)
    if settings.get("in_batch"):  # what the step's own targets stand for: items by popularity
        counts = torch.from_numpy(popular_dataset.catalog.popularity[FIRST_ITEM:]).long()
        every = torch.arange(ITEMS).repeat_interleave(counts)
        chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:200]
        small = Asked(small.queries_ND, every[chosen], small.rows_N, small.places_N, 0)
    full = F.cross_entropy(small.queries_ND @ table.table().T, small.targets_N, reduction="sum").item()

    def mean(logq):
        objective = _objective("sampled_softmax", popular_dataset, negatives=400, logq=logq, **settings)
        steps = [Asked(small.queries_ND, small.targets_N, small.rows_N, small.places_N, key) for key in range(10)]
        return np.mean([objective(step, table).item() for step in steps])

    assert mean(True) == pytest.approx(full, rel=0.05 if settings.get("in_batch") else 0.01)
    assert mean(False) > 1.3 * full


def test_popular_items_are_drawn_in_proportion(popular_dataset):
    sampler = Sampler(ITEMS, 0.5)
    sampler.observe(popular_dataset)
    drawn = sampler.draw(_asked(rows=300), 200)
    counts = popular_dataset.catalog.popularity[FIRST_ITEM:] ** 0.5
    shares = torch.bincount(drawn.flatten(), minlength=ITEMS) / drawn.numel()
    assert np.abs(shares.numpy() - counts / counts.sum()).max() < 0.004


def test_a_target_is_not_its_own_negative():
    table, asked = _Table(), _asked(rows=30)
    one = Asked(asked.queries_ND, torch.zeros(30, dtype=torch.long), asked.rows_N, asked.places_N, 0)
    part = OBJECTIVES["sampled_softmax"]
    alone = part(part.Config(negatives=5), 1)  # a catalogue of one item: nothing else can be drawn
    assert alone(one, table).item() == pytest.approx(0.0, abs=1e-5)


def test_shared_negatives_do_not_depend_on_the_order_of_targets():
    asked = _asked()
    flipped = Asked(asked.queries_ND.flip(0), asked.targets_N.flip(0), asked.rows_N, asked.places_N, asked.key)
    assert torch.equal(shared_targets(asked, 16), shared_targets(flipped, 16))
    assert set(shared_targets(asked, 16).tolist()) <= set(asked.targets_N.tolist())


def test_mixed_negatives_make_it_harder():
    table, asked = _Table(), _asked()
    plain = _objective("sampled_softmax", negatives=16, logq=False)(asked, table).item()
    assert _objective("sampled_softmax", negatives=16, logq=False, mixed=8)(asked, table).item() > plain


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"loss": {"kind": "sampled_softmx"}}, ["sampled_softmx", "did you mean", "sampled_softmax"]),
        ({"loss": {"kind": "bce", "negatives": 0}}, ["negatives", "0"]),
        ({"loss": {"kind": "full_softmax", "negatives": 5}}, ["negatives", "precision"]),
        ({"loss": {"kind": "sampled_softmax", "negatives": 4, "mixed": 2}}, ["mixed", "negatives"]),
    ],
)
def test_a_bad_loss_is_refused(node, words):
    with pytest.raises(UserError) as refused:
        build(NextItem.Config, node, "here")
    assert all(word in str(refused.value) for word in words), refused.value


def test_gbce_learns_calibration_from_the_catalogue():
    part = OBJECTIVES["gbce"]
    assert part(part.Config(negatives=39, calibration=1.0), ITEMS).power == pytest.approx(1.0)
    assert part(part.Config(negatives=10, calibration=1.0), ITEMS).power == pytest.approx(10 / 39)
    assert math.isfinite(part(part.Config(negatives=256, calibration=1.0), 1).power)
