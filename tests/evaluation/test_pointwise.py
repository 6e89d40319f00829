"""RMSE and AUC against the definitions, written out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.evaluation.pointwise import Predictions, auc, pointwise_estimates, pointwise_metrics, rmse
from raysys.evaluation.protocol import EvaluationConfig

few_values = st.sampled_from([-1.0, 0.0, 0.5, 0.5000001, 2.0, 1e30])
scored = st.lists(st.tuples(few_values | st.floats(-10, 10), st.booleans()), min_size=1, max_size=25)


def auc_by_pairs(scores: list[float], positive: list[bool]) -> float:
    """Go through every pair of a positive and a negative; ties count half."""
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, is_high in zip(scores, positive, strict=True)
        if is_high
        for low, is_low in zip(scores, positive, strict=True)
        if not is_low
    ]
    return sum(wins) / len(wins) if wins else math.nan


@settings(max_examples=200)
@given(scored)
def test_auc_is_the_share_of_pairs_in_order(pairs):
    scores, positive = zip(*pairs, strict=True)
    expected = auc_by_pairs(list(scores), list(positive))
    assert auc(np.array(scores), np.array(positive)) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_auc_by_hand():
    assert auc(np.array([1.0, 2, 3]), np.array([False, True, True])) == 1
    assert auc(np.array([3.0, 2, 1]), np.array([False, True, True])) == 0
    assert auc(np.array([1.0, 1, 1]), np.array([False, True, True])) == 0.5
    assert math.isnan(auc(np.array([1.0, 2]), np.array([True, True])))
    assert math.isnan(auc(np.array([]), np.array([], bool)))


def test_auc_of_many_pairs_is_exact():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 300, 1500).astype(np.float32), generator.random(1500) < 0.2
    assert auc(scores, positive) == pytest.approx(auc_by_pairs(scores.tolist(), positive.tolist()), abs=1e-12)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=20))
def test_rmse_is_the_root_of_the_mean_square(pairs):
    predicted, labels = (np.array(side) for side in zip(*pairs, strict=True))
    expected = math.sqrt(sum((p - y) ** 2 for p, y in pairs) / len(pairs))
    assert rmse(predicted, labels) == pytest.approx(expected, abs=1e-12)


def predictions(num_users: int = 60, seed: int = 0, positive_from: float | None = 4.0) -> Predictions:
    generator = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users) * 3, generator.integers(1, 9, num_users))
    labels = generator.integers(1, 6, len(users)).astype(np.float32)
    noise = generator.normal(0, 1, num_users * 3)[users]  # a user's errors hang together
    return Predictions(labels + noise.astype(np.float32), labels, users, positive_from)


def test_metrics_depend_on_whether_labels_have_a_positive_side():
    found = predictions()
    assert set(pointwise_metrics(found)) == {"rmse", "auc"}
    assert pointwise_metrics(found)["auc"] == auc(found.predicted_N, found.labels_N >= 4)
    assert set(pointwise_metrics(predictions(positive_from=None))) == {"rmse"}


def test_estimates_hold_the_value_and_are_the_same_again():
    config = EvaluationConfig(resamples=60)
    found, again = (pointwise_estimates(predictions(), config) for _ in range(2))
    assert found == again
    for name, value in pointwise_metrics(predictions()).items():
        assert found[name].mean == value
        assert found[name].low < value < found[name].high
        assert found[name].count == len(predictions().labels_N)


def test_whole_users_are_drawn():
    base = predictions(40)
    config = EvaluationConfig(resamples=200)
    many = Predictions(
        np.repeat(base.predicted_N, 9), np.repeat(base.labels_N, 9), np.repeat(base.users_N, 9), base.positive_from
    )
    width, wide = (pointwise_estimates(part, config)["rmse"] for part in (base, many))
    assert wide.high - wide.low == pytest.approx(width.high - width.low), "rows of one user are no new evidence"


def test_intervals_are_undefined_with_one_class_only():
    one_class = Predictions(np.array([1.0, 2.0]), np.array([5.0, 5.0]), np.array([0, 1]), 4.0)
    found = pointwise_estimates(one_class, EvaluationConfig(resamples=20))
    assert math.isnan(found["auc"].mean)
    assert math.isnan(found["auc"].low)
    assert found["rmse"].mean == pytest.approx(math.sqrt((16 + 9) / 2))
