"""The hash that chooses lanes, samples and held-out parts: the same for ever, and even."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.data.hashing import hash_ids, share_of
from raysys.data.passes.plan import NUM_BUCKETS, buckets_of, lane_bounds

MASK = (1 << 64) - 1


def hash_one(text: str, seed: int = 0) -> int:
    """The same hash, one word after the other in Python's integers."""
    data = text.encode()
    value = (len(data) + 1 + seed) * 0x9E3779B97F4A7C15 & MASK
    for at in range(0, len(data), 8):
        value = (value ^ int.from_bytes(data[at : at + 8], "little")) * 0xBF58476D1CE4E5B9 & MASK
        value ^= value >> 29
    value = (value ^ value >> 32) * 0x94D049BB133111EB & MASK
    return value ^ value >> 29


@given(st.lists(st.text(max_size=30)), st.integers(0, 5))
def test_a_hash_is_that_of_each_text_alone(texts, seed):
    expected = [hash_one(text, seed) for text in texts]
    assert hash_ids(pa.array(texts, pa.string()), seed).tolist() == expected
    cut = len(texts) // 2
    chunks = pa.chunked_array([texts[:cut], texts[cut:]], pa.string())
    assert hash_ids(chunks, seed).tolist() == expected
    assert hash_ids(pa.array(["x", *texts, "y"]).slice(1, len(texts)), seed).tolist() == expected
    assert hash_ids(pa.array(texts, pa.large_string()), seed).tolist() == expected


def test_hashes_stay_what_they_were():
    texts = pa.array(["", "u1", "user-12345678", "ä", None])
    assert hash_ids(texts).tolist() == [
        7855322948898198573,
        17193688091081517821,
        6298253781869543813,
        10007228370940645389,
        7855322948898198573,
    ], "another hash would move every user of a dataset that is added to"


@pytest.mark.parametrize("pattern", ["{}", "u{}", "user-{:09d}", "{}@mail.example", "{:032x}"])
def test_hashes_of_ids_that_count_are_even(pattern):
    hashes = hash_ids(pa.array([pattern.format(number) for number in range(20_000)]))
    assert len(np.unique(hashes)) == 20_000
    assert np.bincount((buckets_of(hashes) // (NUM_BUCKETS // 16)).astype(int), minlength=16).min() > 1100
    assert (share_of(hashes) < 0.1).mean() == pytest.approx(0.1, abs=0.01)
    other = share_of(hash_ids(pa.array([pattern.format(number) for number in range(20_000)]), 1))
    assert abs(np.corrcoef(share_of(hashes), other)[0, 1]) < 0.03, "a sample spreads over all lanes"


def test_shares_lie_between_0_and_1():
    assert share_of(np.array([0, MASK], np.uint64)).tolist() == [0.0, 1 - 2**-53]


@given(st.lists(st.tuples(st.integers(0, NUM_BUCKETS - 1), st.integers(1, 50)), max_size=40), st.integers(1, 100))
def test_lanes_cover_all_buckets_and_are_about_as_large_as_asked(filled, events_per_lane):
    counts = np.zeros(NUM_BUCKETS, np.int64)
    for bucket, count in filled:
        counts[bucket] += count
    bounds = lane_bounds(counts, events_per_lane)
    assert (bounds[0], bounds[-1]) == (0, NUM_BUCKETS)
    assert list(bounds) == sorted(set(bounds))
    in_lanes = [int(counts[low:high].sum()) for low, high in pairwise(bounds)]
    assert max(in_lanes) <= events_per_lane + counts.max(), "no lane is larger than asked by more than a bucket"
    assert len(in_lanes) <= max(1, -(-int(counts.sum()) // events_per_lane))
