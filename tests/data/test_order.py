"""The order of samples: everything once, from the arguments alone, and evenly dealt to ranks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.data import order
from raysys.data.order import plan_epoch, rank_slice

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=30)  # rows of each shard


def samples(shard_sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    shard_of_row = np.repeat(np.arange(len(shard_sizes)), shard_sizes)
    return np.random.default_rng(seed).geometric(0.05, len(shard_of_row)), shard_of_row


def plan(shard_sizes: list[int], batch_size: int = 8, seed: int = 0, epoch: int = 0) -> list[np.ndarray]:
    lengths, shard_of_row = samples(shard_sizes)
    return plan_epoch(lengths, shard_of_row, seed, epoch, batch_size)


@given(sizes, st.integers(1, 40))
def test_every_sample_comes_exactly_once(shard_sizes, batch_size):
    batches = plan(shard_sizes, batch_size)
    assert sorted(np.concatenate(batches)) == list(range(sum(shard_sizes)))
    assert [len(batch) for batch in batches if len(batch) != batch_size] in ([], [sum(shard_sizes) % batch_size])


@given(sizes, st.integers(1, 40), st.integers(0, 3))
def test_by_tokens_every_sample_comes_once_in_as_many_batches(shard_sizes, batch_size, epoch):
    lengths, shard_of_row = samples(shard_sizes)
    batches = plan_epoch(lengths, shard_of_row, 0, epoch, batch_size, by_tokens=True)
    assert sorted(np.concatenate(batches)) == list(range(sum(shard_sizes)))
    assert len(batches) == -(-sum(shard_sizes) // batch_size)
    assert all(len(batch) for batch in batches)


def test_by_tokens_batches_have_about_as_many_tokens():
    lengths, shard_of_row = samples([2000, 2000])
    batches = plan_epoch(lengths, shard_of_row, 0, 0, 32, by_tokens=True)
    tokens = np.array([(lengths[batch] + 1).sum() for batch in batches])
    assert np.ptp(tokens) < 2 * (lengths.max() + 1) + 1
    by_users = np.array([(lengths[batch] + 1).sum() for batch in plan_epoch(lengths, shard_of_row, 0, 0, 32)])
    assert np.ptp(by_users) > 5 * np.ptp(tokens)


@given(sizes, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3))
def test_the_order_depends_on_the_arguments_alone(shard_sizes, batch_size, seed, epoch):
    np.random.seed(1)
    first = plan(shard_sizes, batch_size, seed, epoch)
    np.random.seed(2)
    again = plan(shard_sizes, batch_size, seed, epoch)
    assert len(first) == len(again)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_seeds_and_epochs_give_other_orders():
    base = np.concatenate(plan([50] * 4))
    for other in (plan([50] * 4, seed=1), plan([50] * 4, epoch=1), plan([50] * 4, seed=1, epoch=1)):
        assert not np.array_equal(base, np.concatenate(other))


def test_batches_hold_samples_of_like_length():
    lengths, _ = samples([4000])
    spread = [np.ptp(lengths[batch]) for batch in plan([4000], batch_size=32)]
    by_chance = [np.ptp(lengths[part]) for part in np.split(np.random.default_rng(0).permutation(4000), 125)]
    assert np.mean(spread) < 0.25 * np.mean(by_chance)


def test_short_and_long_batches_are_mixed_over_the_epoch():
    lengths, _ = samples([4000])
    means = np.array([lengths[batch].mean() for batch in plan([4000], batch_size=32)])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3
    assert 0.35 < (np.diff(means) > 0).mean() < 0.65, "the next batch is as often longer as shorter"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 16))
def test_at_any_time_only_a_window_of_shards_is_open(shard_sizes, batch_size):
    _, shard_of_row = samples(shard_sizes)
    batches = plan(shard_sizes, batch_size)
    shards_of_batches = [set(shard_of_row[batch]) for batch in batches]
    left_over = batch_size - 1  # rows that a window hands on to the next, at most
    for at in range(len(batches)):
        begun = set().union(*shards_of_batches[: at + 1])
        needed = set().union(*shards_of_batches[at:])
        assert len(begun & needed) <= order._WINDOW_SHARDS + left_over


def test_the_shards_of_a_window_change_with_the_epoch():
    _, shard_of_row = samples([20] * 40)
    first = [set(shard_of_row[np.concatenate(plan([20] * 40, epoch=epoch)[:20])]) for epoch in range(3)]
    assert len({frozenset(shards) for shards in first}) == 3


@settings(max_examples=60)
@given(st.integers(1, 64), st.integers(1, 9), st.integers(0, 5))
def test_ranks_share_a_batch_without_loss_and_evenly(batch_size, world_size, seed):
    lengths, shard_of_row = samples([200], seed)
    planned = plan_epoch(lengths, shard_of_row, seed, 0, batch_size)[:3]
    for batch in [*planned, np.random.default_rng(seed).permutation(200)[:batch_size]]:
        shares = [rank_slice(batch, lengths, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(shares)) == sorted(batch)
        assert np.ptp([len(share) for share in shares]) <= 1
        if len(batch) % world_size == 0:
            tokens = [lengths[share].sum() for share in shares]
            assert np.ptp(tokens) <= np.ptp(lengths[batch]), "dealt out in order of length, shares differ by one sample"


def test_one_rank_takes_the_batch_as_it_is():
    batch = np.array([3, 1, 2])
    assert rank_slice(batch, np.array([9, 8, 7, 6]), 0, 1).tolist() == [3, 1, 2]
