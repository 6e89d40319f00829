"""Metrics of predictions against the definitions, written out, and their intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.evaluation.ordering import masses_of, rightly_ordered
from raysys.evaluation.pointwise import (
    Predictions,
    cheap_metrics,
    join,
    pointwise_estimates,
    pointwise_metrics,
    pointwise_notes,
    pointwise_samples,
)
from raysys.evaluation.protocol import EvaluationConfig, lower_is_better
from raysys.evaluation.reliability import reliability


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=20))
def test_errors_of_values_are_those_of_one_after_the_other(pairs):
    predicted, labels = (np.array(side) for side in zip(*pairs, strict=True))
    found = pointwise_metrics(Predictions(predicted, labels, np.arange(len(labels)), None))
    assert found["rmse"] == pytest.approx(math.sqrt(sum((p - y) ** 2 for p, y in pairs) / len(pairs)), abs=1e-12)
    assert found["mae"] == pytest.approx(sum(abs(p - y) for p, y in pairs) / len(pairs), abs=1e-12)


def predictions(num_users: int = 60, seed: int = 0, positive_from: float | None = 4.0) -> Predictions:
    generator = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users) * 3, generator.integers(1, 9, num_users))
    labels = generator.integers(1, 6, len(users)).astype(np.float32)
    noise = generator.normal(0, 1, num_users * 3)[users]  # a user's errors hang together
    predicted = labels + noise + 0.8 * generator.normal(size=len(users))
    return Predictions(predicted.astype(np.float32), labels, users, positive_from)


def probabilities(num_users: int = 80, seed: int = 0, raw: bool = False) -> Predictions:
    generator = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users) * 2, generator.integers(1, 12, num_users))
    truth = generator.uniform(0.02, 0.6, len(users))
    labels = (generator.random(len(users)) < truth).astype(np.float32)
    predicted = (truth**1.2).astype(np.float32)
    return Predictions(predicted, labels, users, 1.0, "probability", np.sqrt(predicted) if raw else None)


def test_what_is_measured_depends_on_what_is_predicted():
    values, clicks = predictions(), probabilities()
    assert list(pointwise_metrics(values)) == ["rmse", "mae", "auc", "gauc", "xauc"]
    assert list(pointwise_metrics(predictions(positive_from=None))) == ["rmse", "mae", "xauc"]
    binary = ["auc", "gauc", "log_loss", "normalised_entropy", "ece", "ece_floor", "top_decile_lift"]
    assert list(pointwise_metrics(clicks)) == binary
    assert set(pointwise_metrics(probabilities(raw=True))) == {*binary, "ece_raw"}
    assert set(pointwise_metrics(replace(values, is_constant=True))) == {"rmse", "mae"}
    of_constants = {"log_loss", "normalised_entropy", "ece", "ece_floor"}
    assert set(pointwise_metrics(replace(clicks, is_constant=True))) == of_constants
    assert set(cheap_metrics(values)) == {"rmse", "mae", "auc", "gauc"}
    assert set(cheap_metrics(clicks)) == {"auc", "gauc", "log_loss"}
    assert cheap_metrics(clicks).items() <= pointwise_metrics(clicks).items()
    assert [name for name in (*binary, "ece_raw", "rmse", "mae", "xauc") if lower_is_better(f"t.{name}")] == [
        *("log_loss", "normalised_entropy", "ece", "ece_floor", "ece_raw", "rmse", "mae")
    ]


def auc_by_pairs(pairs) -> float | None:
    wins = [(p > q) + (p == q) / 2 for p, y in pairs if y for q, z in pairs if not z]
    return sum(wins) / len(wins) if wins else None


def test_probabilities_against_plain_loops():
    found = probabilities(seed=5)
    metrics = pointwise_metrics(found)
    rows = list(zip(found.predicted_N.tolist(), found.labels_N.tolist(), found.users_N.tolist(), strict=True))
    pairs = [(p, y) for p, y, _ in rows]
    assert metrics["auc"] == pytest.approx(auc_by_pairs(pairs), abs=1e-6)
    over = under = 0.0
    for user in {user for _, _, user in rows}:
        own = [(p, y) for p, y, owner in rows if owner == user]
        value = auc_by_pairs(own)
        if value is not None:
            over, under = over + len(own) * value, under + len(own)
    assert metrics["gauc"] == pytest.approx(over / under, abs=1e-6)
    loss = -sum(math.log(p if y else 1 - p) for p, y in pairs) / len(pairs)
    rate = sum(y for _, y in pairs) / len(pairs)
    assert metrics["log_loss"] == pytest.approx(loss, abs=1e-6)
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert metrics["normalised_entropy"] == pytest.approx(loss / entropy, abs=1e-6)


def test_a_label_is_positive_from_the_threshold_on():
    stars, clicks = predictions(), probabilities()
    judged = Predictions(clicks.predicted_N, clicks.labels_N * 3 + 1, clicks.users_N, 4.0, "probability")
    assert pointwise_metrics(judged) == pointwise_metrics(clicks)
    assert stars.is_positive.tolist() == (stars.labels_N >= 4).tolist()


def test_certainty_that_is_wrong_costs_much_but_not_everything():
    sure = Predictions(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1, 0]), np.arange(3), 1.0, "probability")
    assert pointwise_metrics(sure)["log_loss"] == pytest.approx(2 / 3 * -math.log(1e-7), rel=1e-6)


def test_the_rate_itself_has_a_normalised_entropy_of_one():
    clicks = probabilities()
    constant = replace(clicks, predicted_N=np.full(len(clicks.labels_N), clicks.labels_N.mean(dtype=np.float64)))
    found = pointwise_metrics(replace(constant, is_constant=True))
    assert found["normalised_entropy"] == pytest.approx(1)
    assert found["ece"] == pytest.approx(0, abs=1e-12)


def test_what_is_right_shows_the_floor_of_its_calibration_error():
    generator = np.random.default_rng(3)
    truth = generator.beta(2, 3, 20_000)
    drawn = [(generator.random(len(truth)) < truth).astype(np.float32) for _ in range(30)]
    found = [
        pointwise_metrics(Predictions(truth, labels, np.arange(len(truth)), 1.0, "probability")) for labels in drawn
    ]
    assert np.mean([one["ece"] for one in found]) == pytest.approx(found[0]["ece_floor"], rel=0.08)
    few = pointwise_metrics(Predictions(truth[:200], drawn[0][:200], np.arange(200), 1.0, "probability"))
    assert few["ece_floor"] == pytest.approx(10 * found[0]["ece_floor"], rel=0.1), "a hundredth of the pairs"


def test_users_with_one_class_are_left_out_of_gauc_and_counted():
    found = Predictions(
        np.array([0.1, 0.9, 0.8, 0.2, 0.5]), np.array([0.0, 1, 0, 1, 1]), np.array([7, 7, 9, 9, 4]), 1.0, "probability"
    )
    estimate = pointwise_estimates(found, EvaluationConfig(resamples=20))["gauc"]
    assert (estimate.mean, estimate.count) == (0.5, 2)
    assert pointwise_notes("click", found) == [
        "click.gauc: 2 of 3 users have labels of both classes; the others are left out"
    ]
    alone = found.only(np.array([0, 2, 4]))
    assert "gauc" not in pointwise_metrics(alone), "there is nothing to take a mean of"
    assert pointwise_notes("time", predictions(positive_from=None)) == []


@pytest.mark.parametrize("found", [predictions(), probabilities(raw=True)])
def test_estimates_hold_the_value_and_are_the_same_again(found):
    config = EvaluationConfig(resamples=200)
    first, again = (pointwise_estimates(replace(found), config) for _ in range(2))
    assert first == again
    for name, value in pointwise_metrics(found).items():
        assert first[name].mean == value
        assert first[name].low < first[name].high
        if not name.startswith("ece"):  # an error of bins is larger when fewer distinct users are drawn
            assert first[name].low < value < first[name].high
        assert first[name].count == (len(found.labels_N) if name != "gauc" else first[name].count)


@pytest.mark.parametrize("found", [predictions(), probabilities(raw=True)])
def test_resamples_are_those_of_users_written_out(found):
    names, (codes, num_users) = list(pointwise_metrics(found)), found.owners
    samples = pointwise_samples(found, EvaluationConfig(resamples=10))
    generator = np.random.default_rng(0)
    for at in range(10):
        counts = np.bincount(generator.integers(num_users, size=num_users), minlength=num_users)
        drawn = np.repeat(np.arange(len(codes)), counts[codes])
        users = np.concatenate([user * 1000 + np.arange(counts[user]) for user in range(num_users)])
        copies = {user: users[users // 1000 == user] for user in range(num_users)}
        parts = [found.only(codes == user) for user in range(num_users)]
        apart = join([replace(parts[u], users_N=np.full(len(parts[u].users_N), c)) for u in copies for c in copies[u]])
        assert len(apart.labels_N) == len(drawn)
        expected = pointwise_metrics(apart)
        for name in (name for name in names if name != "xauc"):
            assert samples[name][at] == pytest.approx(expected[name], abs=1e-6), name


def test_the_interval_of_ordered_pairs_is_that_of_drawn_users():
    found = predictions(150, seed=2, positive_from=None)
    samples, (codes, num_users) = pointwise_samples(found, EvaluationConfig(resamples=300))["xauc"], found.owners
    generator, whole = np.random.default_rng(0), []
    for _ in range(300):
        counts = np.bincount(generator.integers(num_users, size=num_users), minlength=num_users)
        drawn = np.repeat(np.arange(len(codes)), counts[codes])
        right, comparable = rightly_ordered(found.predicted_N[drawn], found.labels_N[drawn])
        whole.append(right.sum() / comparable.sum())
    assert np.corrcoef(samples, whole)[0, 1] > 0.99
    assert samples.std() == pytest.approx(np.std(whole), rel=0.05)
    assert samples.mean() == pytest.approx(np.mean(whole), abs=0.1 * samples.std())


def test_whole_users_are_drawn():
    base = predictions(40)
    config = EvaluationConfig(resamples=200)
    many = base.only(np.repeat(np.arange(len(base.labels_N)), 9))
    width, wide = (pointwise_estimates(part, config)["rmse"] for part in (base, many))
    assert wide.high - wide.low == pytest.approx(width.high - width.low), "rows of one user are no new evidence"


def test_intervals_are_undefined_with_one_class_only():
    one_class = Predictions(np.array([1.0, 2.0]), np.array([5.0, 5.0]), np.array([0, 1]), 4.0)
    found = pointwise_estimates(one_class, EvaluationConfig(resamples=20))
    assert math.isnan(found["auc"].mean)
    assert math.isnan(found["auc"].low)
    assert math.isnan(found["xauc"].mean)
    assert found["rmse"].mean == pytest.approx(math.sqrt((16 + 9) / 2))
    never = Predictions(np.array([0.1, 0.2]), np.array([0.0, 0.0]), np.array([0, 1]), 1.0, "probability")
    found = pointwise_estimates(never, EvaluationConfig(resamples=20))
    assert math.isnan(found["normalised_entropy"].mean)
    assert math.isnan(found["top_decile_lift"].mean)
    assert found["ece"].mean == pytest.approx(0.15)


def reliability_by_loops(predicted, positive, bins: int) -> list[tuple[float, float, int]]:
    """Put each prediction, with all that equal it, into the bin of the middle of their ranks."""
    held: dict[int, list[tuple[float, bool]]] = {}
    for value in sorted(set(predicted)):
        below = sum(other < value for other in predicted)
        tied = [(p, y) for p, y in zip(predicted, positive, strict=True) if p == value]
        held.setdefault(int((below + len(tied) / 2) * bins / len(predicted)), []).extend(tied)
    return [
        (sum(p for p, _ in part) / len(part), sum(y for _, y in part) / len(part), len(part)) for part in held.values()
    ]


@pytest.mark.parametrize("values", [1, 4, 40, 10**6])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_reliability_against_plain_loops(values, bins):
    generator = np.random.default_rng(values)
    predicted = generator.integers(0, values, 300) / values
    positive = generator.random(300) < predicted**2
    found = reliability(masses_of(predicted, positive), bins)
    expected = reliability_by_loops(predicted.tolist(), positive.tolist(), bins)
    shown = list(zip(found.predicted_B, found.rate_B, found.counts_B, strict=True))
    assert shown == [pytest.approx(row, abs=1e-9) for row in expected]
    error = sum(count * abs(mean - rate) for mean, rate, count in expected) / 300
    assert found.error == pytest.approx(error, abs=1e-9)
    if values == 10**6:
        assert set(found.counts_B.astype(int)) <= {300 // bins, 300 // bins + 1}, "equal mass"
