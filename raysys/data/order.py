"""The order of samples: a pure function of (seed, epoch, global batch size), whoever computes it and wherever.

So a run resumes at the exact step, every rank takes the same number of steps, and 1, 2 and 4 ranks see the same
global batches.
"""

import numpy as np

_WINDOW_SHARDS = 8
_WINDOW_BATCHES = 16  # sorting by length inside 10 to 20 batches leaves almost no padding and enough randomness


def plan_epoch(
    lengths: np.ndarray, shard_of_row: np.ndarray, seed: int, epoch: int, batch_size: int, by_tokens: bool = False
) -> list[np.ndarray]:
    """Return the global batches of an epoch: arrays of positions into `lengths`. Every epoch has as many.

    Shards are permuted; the rows of a window of shards are permuted and, in groups of batches, sorted by length and
    cut; the order of the window's batches is permuted. A window keeps the pages in use few.

    Args:
        lengths: tokens of each sample [N].
        shard_of_row: shard that each sample lies in [N].
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        batch_size: samples per step over all ranks.
        by_tokens: whether batches have about as many tokens each, and `batch_size` samples on average.
    """
    generator = np.random.default_rng([seed, epoch])
    shards = generator.permutation(np.unique(shard_of_row))
    batches: list[np.ndarray] = []
    rest = np.zeros(0, np.int64)
    for start in range(0, len(shards), _WINDOW_SHARDS):
        window = shards[start : start + _WINDOW_SHARDS]
        rows = np.concatenate([rest, generator.permutation(np.flatnonzero(np.isin(shard_of_row, window)))])
        last = start + _WINDOW_SHARDS >= len(shards)
        usable = len(rows) if last else len(rows) // batch_size * batch_size
        rows, rest = rows[:usable], rows[usable:]
        cut: list[np.ndarray] = []
        for begin in range(0, len(rows), batch_size * _WINDOW_BATCHES):
            group = rows[begin : begin + batch_size * _WINDOW_BATCHES]
            group = group[np.argsort(lengths[group], kind="stable")]
            cut += _cut(group, lengths, batch_size, by_tokens)
        batches += [cut[place] for place in generator.permutation(len(cut))]
    return batches


def _cut(group: np.ndarray, lengths: np.ndarray, batch_size: int, by_tokens: bool) -> list[np.ndarray]:
    count = -(-len(group) // batch_size)
    places = np.arange(1, count)
    if not by_tokens:
        return np.split(group, places * batch_size)
    upto = np.cumsum(lengths[group] + 1)  # who has no tokens has the start state
    ends = np.searchsorted(upto, upto[-1] * places / count)
    ends = np.maximum.accumulate(np.maximum(ends - places, 0)) + places  # however long one is, no batch is empty
    return np.split(group, np.minimum(ends, len(group) - count + places))


def rank_slice(batch: np.ndarray, lengths: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return one rank's share of a global batch: rows sorted by length and dealt out, so that tokens are balanced."""
    if world_size == 1:
        return batch
    return batch[np.argsort(lengths[batch], kind="stable")][rank::world_size]
