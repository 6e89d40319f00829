"""Tasks of items and of users: what counts as an outcome, what a basket is, and that each learns what is planted."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from raysys.config import RunConfig
from raysys.configfile import build
from raysys.data.batches import make_batch
from raysys.data.demand import demand
from raysys.data.periods import period_ends
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.errors import UserError
from raysys.evaluation.evaluate import examine
from raysys.evaluation.judge import Judge
from raysys.tasks.user_outcome import AHEAD
from raysys.training.feed import Feed
from raysys.training.loop import TrainingLoop
from raysys.training.parallel import Parallel
from raysys.training.start import build_network

DAY = 86_400_000
TASKS = {
    "next_item": {},
    "similar_item": {"window": 2},
    "triplet": {},
    "bundle": {"within": "10m"},
    "popularity": {"window": None},
    "churn": {"horizon": "3d"},
    "watch_count": {"horizon": "3d", "events": ["buy"]},
}


def _config(dataset, **nodes):
    node = {
        "project": "visits",
        "dataset": str(dataset.path),
        "model": {"width": 16, "max_length": 60, "dropout": 0.0, "backbone": {"kind": "gru"}},
        "tasks": TASKS,
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 10},
        "training": {"epochs": 25, "batch_size": 16, "evaluate_every": 25, "early_stopping": None},
        "evaluation": {"k": [3], "resamples": 20, "exclude_seen": False},
    }
    return build(RunConfig, {**node, **nodes}, "test")


@pytest.fixture(scope="module")
def trained(visits_dataset, tmp_path_factory):
    """A run of all seven tasks, and what the evaluation of its test period found."""
    config = _config(visits_dataset)
    network = build_network(config, visits_dataset)
    loop = TrainingLoop(config, visits_dataset, network, tmp_path_factory.mktemp("visits-run"), show=False)
    network = loop.run().network
    judge = Judge.of(visits_dataset, config.evaluation, config.model.max_length)
    return network, examine(judge, network, Split.TEST)


def _metric(trained, name):
    return trained[1].report.metrics[name].mean


def test_periods_end_where_the_next_one_begins(visits_dataset, contract_dataset):
    train, valid, test = period_ends(visits_dataset)
    assert valid - train == 4 * DAY
    assert test == visits_dataset.manifest.time_range[1]
    assert period_ends(contract_dataset) is None


@pytest.mark.parametrize("split", [Split.TRAIN, Split.VALID, Split.TEST])
def test_outcomes_are_what_followed_within_the_horizon(visits_dataset, split):
    network = build_network(_config(visits_dataset), visits_dataset)
    reader, ends = ShardReader(visits_dataset), period_ends(visits_dataset)
    buy = visits_dataset.manifest.event_names.index("buy")
    rows = reader.rows(np.arange(visits_dataset.manifest.num_users))
    rows.marks[:] = np.where(rows.marks <= split, split, Split.NONE)
    batch = make_batch(rows, split, reader.is_history, 200, newest=True)
    found = network.named_tasks()["watch_count"].outcomes(batch, split).targets
    assert found.mask_BC.any()
    after = -1 if split == Split.TRAIN else ends[split - 1]
    for user in range(len(rows.users)):
        mine = slice(rows.offsets[user], rows.offsets[user + 1])
        times, events = rows.times[mine][rows.marks[mine] == split], rows.events[mine][rows.marks[mine] == split]
        assert int(batch.history.mask_BL[user].sum()) == len(times), "every event is asked about, the last one too"
        for place in range(int(batch.history.mask_BL[user].sum())):
            until = int(batch.history.times_BL[user, place]) + 3 * DAY
            known = after < until <= ends[split]
            assert bool(found.mask_BC[user, place]) == known
            if known:
                within = (times > int(batch.history.times_BL[user, place])) & (times <= until) & (events == buy)
                assert int(found.labels[AHEAD][user, place]) == within.sum()


def test_a_window_that_is_cut_off_knows_less_and_never_otherwise(visits_dataset):
    network = build_network(_config(visits_dataset), visits_dataset)
    reader, task = ShardReader(visits_dataset), network.named_tasks()["churn"]
    rows = reader.rows(np.arange(20))
    whole = task.prepare(make_batch(rows, Split.TRAIN, reader.is_history, 200, newest=True))
    cut = task.prepare(make_batch(rows, Split.TRAIN, reader.is_history, 10, window=np.zeros(20), newest=True))
    length = cut.targets.mask_BC.shape[1]
    assert 0 < cut.targets.mask_BC.sum() < whole.targets.mask_BC[:, :length].sum()
    here = cut.targets.mask_BC
    assert torch.equal(task.truth(cut.targets)[here], task.truth(whole.targets)[:, :length][here])
    assert whole.targets.mask_BC[:, :length][here].all()


def test_who_left_is_known_by_the_last_event(visits_dataset, trained):
    """Users whose newest event lies a horizon before the end of training stay away after it, and batches say so."""
    config = _config(visits_dataset, tasks={"churn": {"horizon": "3d"}})
    network = build_network(config, visits_dataset)
    reader, end = ShardReader(visits_dataset), period_ends(visits_dataset)[0]
    feed = Feed(config, visits_dataset, reader, Parallel.current(), network.reads_newest)
    task, left = network.named_tasks()["churn"], {}
    for (batch,) in feed.batches(0, feed.order(0), 0):
        view = task.prepare(batch).targets
        for row, user in enumerate(batch.history.users_B.tolist()):
            last = int(batch.history.mask_BL[row].sum()) - 1
            left[user] = bool(view.mask_BC[row, last]) and float(task.truth(view)[row, last]) == 1
    rows = reader.rows(np.arange(visits_dataset.manifest.num_users))
    newest = [rows.times[a:b][rows.marks[a:b] == Split.TRAIN].max() for a, b in pairwise(rows.offsets)]
    assert left == {user: newest[user] + 3 * DAY <= end for user in left}
    assert any(left.values())
    judged = trained[1].outcomes.predictions["churn"]
    assert judged.is_positive.any()
    assert not judged.is_positive.all()


def test_where_periods_have_no_common_end_only_what_was_seen_is_known(contract_dataset):
    tasks = {"churn": {"horizon": "1d"}}
    network = build_network(_config(contract_dataset, tasks=tasks), contract_dataset)
    reader, task = ShardReader(contract_dataset), network.named_tasks()["churn"]
    batch = make_batch(reader.rows(np.arange(50)), Split.TRAIN, reader.is_history, 60)
    view = task.prepare(batch).targets
    newest_B1 = batch.targets.times_BC.amax(1, keepdim=True)
    assert torch.equal(view.mask_BC, batch.history.mask_BL & (batch.history.times_BL + DAY <= newest_B1))
    assert not task.outcomes(batch, Split.VALID).targets.mask_BC.any()


def test_baskets_are_what_follows_at_once(visits_dataset):
    network = build_network(_config(visits_dataset), visits_dataset)
    reader, task = ShardReader(visits_dataset), network.named_tasks()["bundle"]
    rows = reader.rows(np.arange(20))
    batch = make_batch(rows, Split.TRAIN, reader.is_history, 200)
    view = task.prepare(batch)
    encoded = network.recommender(view.history)
    queries = task.query(encoded, view.targets.anchor_BC)
    history = batch.history
    for user, place in view.targets.mask_BC.nonzero().tolist():
        anchor = int(view.targets.anchor_BC[user, place])
        assert int(view.targets.times_BC[user, place] - history.times_BL[user, anchor]) <= 600_000
        first = anchor
        while first and int(history.times_BL[user, first] - history.times_BL[user, first - 1]) <= 600_000:
            first -= 1
        basket = history.items_BL[user, first : anchor + 1]
        assert int(view.targets.items_BC[user, place]) not in basket.tolist()
        mean = encoded.items(basket).mean(0)
        assert torch.allclose(queries[user, place], task.scaled(task.turn(mean)), atol=1e-5)


def test_demand_is_counted_in_that_of_the_mean_item(visits_dataset):
    train = demand(visits_dataset, Split.TRAIN)
    popularity = visits_dataset.catalog.popularity
    assert np.allclose(train, popularity / popularity[FIRST_ITEM:].mean())
    newest = demand(visits_dataset, Split.TRAIN, 2 * DAY)
    assert newest.mean() == pytest.approx(train.mean())
    assert not np.allclose(newest, train)


@pytest.mark.thorough
def test_every_task_learns_what_is_planted(trained):
    found = {name: value.mean for name, value in trained[1].report.metrics.items()}
    popular = {name: value.mean for name, value in trained[1].report.baselines["popularity"].items()}
    assert found["churn.auc"] > 0.9, "who comes rarely is known by what he takes"
    assert found["watch_count.xauc"] > 0.6
    assert found["popularity.xauc"] > 0.7
    assert popular["popularity.xauc"] > 0.7, "the demand so far stands beside it"
    assert found["bundle.recall@3"] > 0.6, "of twenty items two or three go with what is in the basket"
    assert found["similar_item.recall@3"] > 1.5 * 3 / 20
    assert found["triplet.recall@3"] > 1.5 * 3 / 20


@pytest.mark.thorough
def test_items_that_go_together_are_alike(trained, visits_dataset):
    network, _ = trained
    table_VD = network.recommender.vectors().table()
    scores_VV = network.named_tasks()["similar_item"].scaled(table_VD) @ table_VD.T
    best_V = scores_VV.fill_diagonal_(-torch.inf).argmax(1)
    numbers = torch.tensor([int(name[1:]) for name in visits_dataset.vocabulary.item_ids.to_pylist()])
    assert (numbers // 10 == numbers[best_V] // 10).float().mean() > 0.9


@pytest.mark.parametrize("task", ["churn", "bundle"])
def test_what_needs_times_says_so(popular_dataset, task):
    with pytest.raises(UserError, match=rf"tasks.{task}: the events have no times"):
        build_network(_config(popular_dataset, tasks={task: {}}), popular_dataset)


def test_a_window_of_demand_needs_times_too(popular_dataset):
    with pytest.raises(UserError, match=r"tasks.popularity.window: .*window: null"):
        build_network(_config(popular_dataset, tasks={"popularity": {}}), popular_dataset)
    build_network(_config(popular_dataset, tasks={"popularity": {"window": None}}), popular_dataset)
