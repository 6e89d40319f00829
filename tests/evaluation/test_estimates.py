"""Intervals that cover, outcomes that add up over ranks, and reports that survive being written."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from raysys.evaluation.evaluate import Judge, Outcomes, estimate, merge, summarise
from raysys.evaluation.pointwise import Predictions
from raysys.evaluation.protocol import Estimate, EvalReport, EvaluationConfig, bootstrap, interval, lower_is_better
from raysys.evaluation.report import report_table


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    config = EvaluationConfig(resamples=200, confidence=0.9)
    covered = 0
    for trial in range(200):
        hits = (generator.random((1, 150)) < 0.3).astype(float)
        low, high = interval(bootstrap(hits, config, seed=trial)[:, 0], config.confidence)
        covered += low <= 0.3 <= high
    assert 0.83 < covered / 200 < 0.96


def test_the_interval_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(1).normal(2, 3, (1, 4000))
    low, high = interval(bootstrap(values, EvaluationConfig(resamples=2000))[:, 0], 0.95)
    error = values.std() / math.sqrt(4000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert low < values.mean() < high


def test_bootstraps_are_the_same_again_and_paired_over_metrics():
    values = np.random.default_rng(2).random((1, 50))
    config = EvaluationConfig(resamples=30)
    first, again = bootstrap(values, config), bootstrap(values, config)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, bootstrap(values, config, seed=1))
    both = bootstrap(np.vstack([values, 1 - values]), config)
    np.testing.assert_allclose(both.sum(axis=1), 1, err_msg="the same users are drawn for every metric")


def test_an_interval_leaves_out_what_is_undefined():
    assert interval(np.array([1.0, np.nan, 1.0]), 0.95) == (1.0, 1.0)
    assert all(math.isnan(side) for side in interval(np.array([np.nan]), 0.95))
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))


# Outcomes


def outcomes(users: list[int], width: int = 3, task: bool = True) -> Outcomes:
    rows = np.array(users, np.int64)
    lists = np.stack([rows % 5 + 2 + place for place in range(width)], axis=1)
    labels = {"rating": Predictions(rows + 0.5, rows + 0.0, rows, 4.0)} if task else {}
    return Outcomes(rows, lists, {"next_item.ndcg@3": rows / 10}, labels)


@pytest.mark.parametrize("cuts", [[6], [0, 6], [2, 3], [1, 1, 5]])
def test_outcomes_of_ranks_add_up_to_those_of_one(cuts):
    users = [0, 1, 2, 3, 4, 5]
    whole = merge([outcomes(users)])
    shuffled = [5, 2, 0, 4, 1, 3]
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, 6], strict=True)]
    merged = merge([outcomes(part) if part else Outcomes(*nothing()) for part in parts])
    np.testing.assert_array_equal(merged.users_U, whole.users_U)
    np.testing.assert_array_equal(merged.items_UK, whole.items_UK)
    np.testing.assert_array_equal(merged.ranking["next_item.ndcg@3"], whole.ranking["next_item.ndcg@3"])
    assert summarise(merged) == pytest.approx(summarise(whole))
    assert set(summarise(whole)) == {"next_item.ndcg@3", "rating.rmse", "rating.auc"}


def nothing():
    """Return what a rank without users finds."""
    return np.zeros(0, np.int64), np.zeros((0, 0), np.int64), {}, {}


def test_lists_of_different_widths_are_padded():
    merged = merge([outcomes([0], width=2), outcomes([1], width=4)])
    assert merged.items_UK.tolist() == [[2, 3, 0, 0], [3, 4, 5, 6]]


class FakeDataset:
    """A dataset of which only the number of items matters."""

    class manifest:
        num_items = 10


def test_estimates_hold_means_intervals_counts_and_coverage():
    judge = Judge(FakeDataset, None, EvaluationConfig(k=(1, 3), resamples=50), 5, None)
    found = estimate(merge([outcomes([0, 1, 2, 3, 4, 5])]), judge)
    assert set(found) == {
        "next_item.ndcg@3",
        "next_item.coverage@1",
        "next_item.coverage@3",
        "rating.rmse",
        "rating.auc",
    }
    assert found["next_item.ndcg@3"].mean == pytest.approx(0.25)
    assert found["next_item.ndcg@3"].low < 0.25 < found["next_item.ndcg@3"].high
    assert found["next_item.ndcg@3"].count == 6
    assert found["next_item.coverage@1"].mean == 0.5
    assert found["next_item.coverage@3"].mean == 0.7
    assert found["rating.rmse"].mean == 0.5
    assert estimate(Outcomes(*nothing()), judge) == {}


# Reports


def report() -> EvalReport:
    metrics = {"next_item.ndcg@10": Estimate(0.2, 0.15, 0.25, 1943), "rating.auc": Estimate(0.7, 0.7, 0.7, 7)}
    return EvalReport(
        "test", "full ranking", metrics, {"next_item.ndcg@10": Estimate(0.05, 0.04, 0.06, 1943)}, ("a note",)
    )


def test_a_report_survives_being_written():
    assert EvalReport.from_json(json.loads(json.dumps(report().to_json()))) == report()


def test_the_table_shows_values_beside_the_baseline():
    stream = io.StringIO()
    Console(file=stream, width=140).print(report_table(report()))
    (line,) = [line for line in stream.getvalue().splitlines() if "ndcg@10" in line]
    for shown in ("0.2000", "0.1500 .. 0.2500", "0.0500", "4.00", "1,943"):
        assert shown in line
    assert "full ranking" in stream.getvalue()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("rating.rmse", True),
        ("loss", True),
        ("loss.next_item", True),
        ("next_item.ndcg@10", False),
        ("rating.auc", False),
    ],
)
def test_errors_are_better_when_low(metric, expected):
    assert lower_is_better(metric) is expected
