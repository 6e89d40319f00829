"""AUC, AUC of users, ordered pairs and lift against the definitions, written out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.evaluation.ordering import (
    ByScore,
    auc,
    auc_per_user,
    inversions,
    masses_of,
    rightly_ordered,
    top_decile_lift,
)

few_values = st.sampled_from([-1.0, 0.0, 0.5, 0.5000001, 2.0, 1e30])
scored = st.lists(st.tuples(few_values | st.floats(-10, 10), st.booleans()), min_size=1, max_size=25)


def auc_by_pairs(scores, positive, weights=None) -> float:
    """Go through every pair of a positive and a negative; ties count half."""
    weights = [1.0] * len(scores) if weights is None else weights
    wins = over = 0.0
    for high, is_high, one in zip(scores, positive, weights, strict=True):
        for low, is_low, other in zip(scores, positive, weights, strict=True):
            if is_high and not is_low:
                wins += one * other * (1.0 if high > low else 0.5 if high == low else 0.0)
                over += one * other
    return wins / over if over else math.nan


def auc_of(scores, positive) -> float:
    return auc(masses_of(np.array(scores), np.array(positive, bool)))


@settings(max_examples=200)
@given(scored)
def test_auc_is_the_share_of_pairs_in_order(pairs):
    scores, positive = zip(*pairs, strict=True)
    assert auc_of(scores, positive) == pytest.approx(auc_by_pairs(scores, positive), abs=1e-12, nan_ok=True)


def test_auc_by_hand():
    assert auc_of([1.0, 2, 3], [False, True, True]) == 1
    assert auc_of([3.0, 2, 1], [False, True, True]) == 0
    assert auc_of([1.0, 1, 1], [False, True, True]) == 0.5
    assert math.isnan(auc_of([1.0, 2], [True, True]))
    assert math.isnan(auc_of([], []))


def test_auc_of_many_pairs_is_exact():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 300, 1500).astype(np.float32), generator.random(1500) < 0.2
    assert auc_of(scores, positive) == pytest.approx(auc_by_pairs(scores.tolist(), positive.tolist()), abs=1e-12)


def test_auc_of_each_user_is_that_of_the_users_pairs():
    generator = np.random.default_rng(1)
    owners, scores = generator.integers(0, 40, 400), generator.integers(0, 9, 400) / 8
    positive = generator.random(400) < 0.2
    found = auc_per_user(scores, positive, owners, 41)
    expected = [auc_by_pairs(scores[owners == user], positive[owners == user]) for user in range(41)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert 0 < np.isnan(found).sum() < 41


@given(st.integers(0, 70), st.integers(0, 1000))
def test_inversions_are_counted_for_every_place(size, seed):
    order = np.random.default_rng(seed).permutation(size)
    expected = [
        sum((before < at) == (order[before] > order[at]) for before in range(size) if before != at)
        for at in range(size)
    ]
    assert inversions(order).tolist() == expected


def ordered_by_pairs(predicted, labels) -> list[tuple[float, int]]:
    """Go through every pair of different labels; predictions that tie count half."""
    found = []
    for one, label in zip(predicted, labels, strict=True):
        others = [(p, y) for p, y in zip(predicted, labels, strict=True) if y != label]
        right = sum(0.5 if p == one else float((p > one) == (y > label)) for p, y in others)
        found.append((right, len(others)))
    return found


@given(st.lists(st.tuples(few_values | st.floats(-10, 10), st.integers(0, 6)), min_size=1, max_size=40))
def test_ordered_pairs_are_counted_exactly(pairs):
    predicted, labels = (np.array(side, float) for side in zip(*pairs, strict=True))
    right, comparable = rightly_ordered(predicted, labels)
    assert list(zip(right, comparable, strict=True)) == ordered_by_pairs(predicted, labels)


def test_ordered_pairs_of_two_labels_are_auc():
    generator = np.random.default_rng(2)
    scores, positive = generator.integers(0, 300, 1500), generator.random(1500) < 0.2
    right, comparable = rightly_ordered(scores, positive.astype(float))
    assert right.sum() / comparable.sum() == pytest.approx(auc_of(scores, positive), abs=1e-12)


def lift_by_ranks(scores, positive) -> float:
    """Take tenths of a pair from the top, ties of a score together and in proportion."""
    left, taken = len(scores) / 10, 0.0
    for score in sorted(set(scores), reverse=True):
        tied = [p for s, p in zip(scores, positive, strict=True) if s == score]
        share = min(1.0, left / len(tied))
        taken, left = taken + share * sum(tied), left - share * len(tied)
        if left <= 0:
            break
    return taken / (len(scores) / 10) / (sum(positive) / len(scores))


@pytest.mark.parametrize("values", [3, 30, 10**6])
def test_lift_is_the_rate_of_the_highest_tenth_over_that_of_all(values):
    generator = np.random.default_rng(values)
    scores = generator.integers(0, values, 237)
    positive = generator.random(237) < 0.1 + 0.5 * (scores > 0.8 * values)
    expected = lift_by_ranks(scores.tolist(), positive.tolist())
    assert top_decile_lift(masses_of(scores, positive)) == pytest.approx(expected, abs=1e-9)


def test_lift_by_hand():
    scores = np.arange(20.0)
    assert top_decile_lift(masses_of(scores, scores >= 18)) == pytest.approx(10)
    assert top_decile_lift(masses_of(scores * 0, scores >= 18)) == pytest.approx(1)
    assert math.isnan(top_decile_lift(masses_of(scores, scores > 100)))


def test_weighted_users_count_as_often_as_they_weigh():
    generator = np.random.default_rng(3)
    owners, scores = generator.integers(0, 30, 200), generator.integers(0, 50, 200) / 50
    positive, weights = generator.random(200) < 0.4, generator.integers(0, 4, (5, 30))
    grouped = ByScore.of(scores, positive, owners, 30)
    for row, masses in zip(weights, grouped.masses(weights), strict=True):
        assert auc(masses) == pytest.approx(auc_by_pairs(scores, positive, row[owners]), abs=1e-12)
        times = row[owners]
        again = masses_of(np.repeat(scores, times), np.repeat(positive, times))
        assert top_decile_lift(masses) == pytest.approx(top_decile_lift(again))


def test_very_many_scores_are_grouped_with_little_loss():
    generator = np.random.default_rng(4)
    owners, scores = generator.integers(0, 500, 20_000), generator.random(20_000)
    positive = generator.random(20_000) < scores / 4
    grouped = ByScore.of(scores, positive, owners, 500)
    assert len(grouped.scores_T) < 5000
    (masses,) = grouped.masses(np.ones((1, 500)))
    exact = masses_of(scores, positive)
    assert auc(masses) == pytest.approx(auc(exact), abs=3e-4)
    assert top_decile_lift(masses) == pytest.approx(top_decile_lift(exact), abs=0.02)
