"""A user's targets in several steps of an epoch: each once, for any number of ranks, and tokens stay what they are."""

from collections import Counter

import pytest
import torch

from raysys.configfile import build
from raysys.data.reader import ShardReader
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask
from raysys.training.feed import Feed
from raysys.training.parallel import Parallel


@pytest.fixture
def feed_of(config_of, contract_dataset):
    """Make the feed of a rank for a number of pieces; histories fit the model, so that no target is left out."""
    reader = ShardReader(contract_dataset)

    def make(pieces, rank=0, world_size=1, tokens=True, batch_size=64):
        config = config_of(
            model={"width": 8, "max_length": 1000},
            training={"batch_size": batch_size, "pieces": pieces, "random_windows": False},
        )
        parallel = Parallel(rank, world_size, torch.device("cpu"))
        return Feed(config, contract_dataset, reader, parallel, tokens=tokens)

    return make


def _epoch(feed):
    return [parts[0] for parts in feed.batches(0, feed.order(0), 0)]


def _targets(batches, tokens=True):
    """Count the targets by user, item, time and event, with the tokens before them."""
    found = Counter()
    for batch in batches:
        rows, places = batch.targets.mask_BC.nonzero(as_tuple=True)
        named = (
            batch.history.users_B[rows],
            *(
                values[rows, places]
                for values in (
                    batch.targets.items_BC,
                    batch.targets.times_BC,
                    batch.targets.events_BC,
                    *([batch.targets.anchor_BC] if tokens else []),
                )
            ),
        )
        found.update(zip(*(values.tolist() for values in named), strict=True))
    return found


@pytest.mark.parametrize("pieces", [3, 1000])
def test_every_target_comes_once_in_an_epoch_with_its_tokens(feed_of, pieces):
    assert _targets(_epoch(feed_of(pieces))) == _targets(_epoch(feed_of(1)))


def test_a_user_comes_with_other_targets_each_time_and_never_without_one(feed_of):
    batches = _epoch(feed_of(3))
    times = Counter(user for batch in batches for user in batch.history.users_B.tolist())
    targets = Counter(user for user, *_ in _targets(batches).elements())
    assert times == {user: min(count, 3) for user, count in targets.items()}
    assert max(times.values()) == 3
    assert all(batch.targets.mask_BC.any(1).all() for batch in batches)


def test_with_pieces_enough_every_target_has_a_row_of_its_own(feed_of):
    assert all((batch.targets.mask_BC.sum(1) == 1).all() for batch in _epoch(feed_of(1000)))


def test_two_ranks_share_the_pieces_of_one(feed_of):
    both = [batch for rank in (0, 1) for batch in _epoch(feed_of(3, rank, 2))]
    assert _targets(both) == _targets(_epoch(feed_of(3)))


@pytest.mark.parametrize("pieces", [1, 3])
def test_who_reads_no_tokens_gets_the_same_targets_each_in_a_place_of_its_own(feed_of, pieces):
    batches = _epoch(feed_of(pieces, tokens=False))
    assert _targets(batches, tokens=False) == _targets(_epoch(feed_of(pieces)), tokens=False)
    for batch in batches:
        places = torch.arange(batch.targets.mask_BC.shape[1]).expand_as(batch.targets.mask_BC) - 1
        assert torch.equal(batch.targets.anchor_BC[batch.targets.mask_BC], places[batch.targets.mask_BC])


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_a_vector_per_user_learns_the_same_without_tokens(backbone, feed_of, contract_dataset):
    network = _network(contract_dataset, backbone)
    assert not network.reads_tokens
    losses = []
    for tokens in (True, False):
        (batch,) = _epoch(feed_of(1, tokens=tokens, batch_size=len(contract_dataset.rows)))
        losses.append(network(network.prepare(batch)).totals_T)
    assert torch.allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "tasks"),
    [
        ({"backbone": {"kind": "sasrec"}}, ["rating"]),
        ({"backbone": {"kind": "mf"}, "fields": {"totals": True}}, ["rating"]),
        ({"backbone": {"kind": "mf"}}, ["rating", "next_item"]),
    ],
)
def test_whoever_looks_at_tokens_gets_them(model, tasks, contract_dataset):
    config = build(ModelConfig, {"width": 8, "max_length": 12, **model}, "test")
    assert MultiTask(config, {name: TASKS[name].Config() for name in tasks}, contract_dataset.manifest).reads_tokens


def _network(dataset, backbone):
    torch.manual_seed(0)
    node = {"width": 8, "max_length": 1000, "dropout": 0.0, "backbone": {"kind": backbone, "init_std": 0.5}}
    node["sharing"] = {"dropout": 0.0}
    config = build(ModelConfig, node, "test")
    tasks = {name: TASKS[name].Config(dropout=0.0) for name in ("rating", "click")}
    network = MultiTask(config, tasks, dataset.manifest)
    network.observe(dataset)
    return network.train()
