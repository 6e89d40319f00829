"""Intervals that cover, outcomes that add up over ranks, and reports that survive being written."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from raysys.evaluation.beyond import ItemFacts
from raysys.evaluation.evaluate import merge, summarise
from raysys.evaluation.intervals import PerUser, bootstrap, estimates, interval
from raysys.evaluation.outcomes import Outcomes, no_outcomes
from raysys.evaluation.pointwise import Predictions
from raysys.evaluation.protocol import Estimate, EvalReport, EvaluationConfig, lower_is_better
from raysys.evaluation.report import report_table, slices_table
from raysys.evaluation.summary import estimate, estimate_slices


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    config = EvaluationConfig(resamples=200, confidence=0.9)
    covered = 0
    for trial in range(200):
        hits = (generator.random(150) < 0.3).astype(float)
        low, high = interval(bootstrap({"x": PerUser(hits)}, config, seed=trial)["x"], config.confidence)
        covered += low <= 0.3 <= high
    assert 0.83 < covered / 200 < 0.96


def test_the_interval_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(1).normal(2, 3, 4000)
    found = estimates({"x": PerUser(values)}, EvaluationConfig(resamples=2000))["x"]
    error = values.std() / math.sqrt(4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(values.mean())


def brute_force_bootstrap(values, weights, resamples, seed=0):
    """Draw users one resample after the other, and add up in a loop."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = generator.integers(len(values), size=len(values)).tolist()
        known = [user for user in drawn if not math.isnan(values[user])]
        under = sum(weights[user] for user in known)
        found.append(sum(values[user] * weights[user] for user in known) / under if under else math.nan)
    return found


def test_bootstraps_are_ratios_of_sums_over_the_drawn_users():
    generator = np.random.default_rng(2)
    values, weights = generator.random(40), generator.random(40)
    gaps = np.where(generator.random(40) < 0.8, np.nan, values)
    config = EvaluationConfig(resamples=30)
    columns = {"mean": PerUser(values), "weighted": PerUser(values, weights), "few": PerUser(gaps)}
    found = bootstrap(columns | {"none": PerUser(np.where(np.arange(40) == 3, 1.0, np.nan))}, config)
    np.testing.assert_allclose(found["mean"], brute_force_bootstrap(values, np.ones(40), 30), rtol=1e-5)
    np.testing.assert_allclose(found["weighted"], brute_force_bootstrap(values, weights, 30), rtol=1e-5)
    np.testing.assert_allclose(found["few"], brute_force_bootstrap(gaps, np.ones(40), 30), rtol=1e-5)
    assert np.isnan(found["none"]).any()
    assert estimates(columns, config)["few"].count == (~np.isnan(gaps)).sum()
    assert estimates(columns, config)["few"].mean == pytest.approx(np.nanmean(gaps))
    assert estimates(columns, config)["weighted"].mean == pytest.approx(values @ weights / weights.sum())


def test_bootstraps_are_the_same_again_and_paired_over_metrics():
    values = np.random.default_rng(2).random(50)
    config = EvaluationConfig(resamples=30)
    first, again = (bootstrap({"x": PerUser(values)}, config)["x"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, bootstrap({"x": PerUser(values)}, config, seed=1)["x"])
    both = bootstrap({"x": PerUser(values), "rest": PerUser(1 - values)}, config)
    np.testing.assert_allclose(both["x"] + both["rest"], 1, rtol=1e-5, err_msg="the same users are drawn for all")


def test_an_interval_leaves_out_what_is_undefined():
    assert interval(np.array([1.0, np.nan, 1.0]), 0.95) == (1.0, 1.0)
    assert all(math.isnan(side) for side in interval(np.array([np.nan]), 0.95))
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert estimates({"x": PerUser(np.array([np.nan, np.nan]))}, EvaluationConfig()) == {}
    assert bootstrap({}, EvaluationConfig()) == {}


# Outcomes


def outcomes(users: list[int], width: int = 3, task: bool = True) -> Outcomes:
    rows = np.array(users, np.int64)
    lists = np.stack([rows % 5 + 2 + place for place in range(width)], axis=1)
    labels = {"rating": Predictions(rows + 0.5, rows + 0.0, rows, 4.0)} if task else {}
    metrics = {f"next_item.{name}@{k}": rows / 10 for name in ("ndcg", "recall") for k in (1, 3)}
    return Outcomes(rows, lists, rows % 3, rows + 1.0, np.repeat(rows, 2), np.repeat(rows, 2) + 2, metrics, labels)


@pytest.mark.parametrize("cuts", [[6], [0, 6], [2, 3], [1, 1, 5]])
def test_outcomes_of_ranks_add_up_to_those_of_one(cuts):
    users = [0, 1, 2, 3, 4, 5]
    whole = merge([outcomes(users)])
    shuffled = [5, 2, 0, 4, 1, 3]
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, 6], strict=True)]
    merged = merge([outcomes(part) if part else no_outcomes() for part in parts])
    for name in ("users_U", "items_UK", "known_U", "profile_U", "relevant_users_N", "relevant_items_N"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    np.testing.assert_array_equal(merged.per_user["next_item.ndcg@3"], whole.per_user["next_item.ndcg@3"])
    np.testing.assert_array_equal(merged.relevant_rows, np.repeat(np.arange(6), 2))
    assert summarise(merged) == pytest.approx(summarise(whole))
    assert {"next_item.ndcg@3", "rating.rmse", "rating.mae", "rating.auc"} <= set(summarise(whole))


def test_lists_of_different_widths_are_padded():
    merged = merge([outcomes([0], width=2), outcomes([1], width=4)])
    assert merged.items_UK.tolist() == [[2, 3, 0, 0], [3, 4, 5, 6]]


FACTS = ItemFacts(np.r_[0, 0, np.arange(10.0, 0, -1)], np.linspace(0, 1, 12), np.linspace(0, 3, 12), None)


def test_estimates_hold_means_intervals_counts_and_coverage():
    config = EvaluationConfig(k=(1, 3), resamples=50)
    found = estimate(FACTS, config, {"run": merge([outcomes([0, 1, 2, 3, 4, 5])])})["run"]
    lists = {f"next_item.{n}@{k}" for n in ("ndcg", "recall", "popularity_lift", "coverage", "gini") for k in (1, 3)}
    assert set(found) == lists | {f"rating.{name}" for name in ("rmse", "mae", "auc", "xauc")}
    depths = [int(name[-1]) for name in found if "@" in name]
    assert depths == sorted(depths), "metrics of one depth stand together"
    assert found["next_item.ndcg@3"].mean == pytest.approx(0.25)
    assert found["next_item.ndcg@3"].low < 0.25 < found["next_item.ndcg@3"].high
    assert found["next_item.ndcg@3"].count == 6
    assert found["next_item.coverage@1"].mean == 0.5
    assert found["next_item.coverage@3"].mean == 0.7
    assert found["rating.rmse"].mean == 0.5
    assert estimate(FACTS, config, {"run": no_outcomes()}) == {"run": {}}
    assert estimate_slices(FACTS, config, no_outcomes()) == {}


def test_users_without_a_value_are_left_out_of_its_mean():
    known = merge([outcomes([0, 1, 2, 3])])
    per_user = {"next_item.novelty@3": np.array([1.0, np.nan, 3.0, np.nan])}
    config = EvaluationConfig(k=(3,), resamples=50)
    found = estimate(FACTS, config, {"run": replace(known, per_user=per_user)})["run"]["next_item.novelty@3"]
    assert (found.mean, found.count) == (2.0, 2)
    assert summarise(replace(known, per_user=per_user))["next_item.novelty@3"] == 2.0


# Reports


def report() -> EvalReport:
    metrics = {"next_item.ndcg@10": Estimate(0.2, 0.15, 0.25, 1943), "rating.auc": Estimate(0.7, 0.7, 0.7, 7)}
    baselines = {
        "popularity": {"next_item.ndcg@10": Estimate(0.05, 0.04, 0.06, 1943)},
        "itemknn": {"next_item.ndcg@10": Estimate(0.125, 0.1, 0.15, 1943)},
        "training_mean": {},
    }
    slices = {"history 5-9": {"next_item.ndcg@10": Estimate(0.3, 0.2, 0.4, 321)}, "item tail": {}}
    return EvalReport(
        "test", "full ranking", metrics, baselines, slices, 1943, 5000, ("a note",), {"click": {"shared 1": 1.0}}
    )


def test_a_report_survives_being_written():
    assert EvalReport.from_json(json.loads(json.dumps(report().to_json()))) == report()


def shown(table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140).print(table)
    return stream.getvalue()


def test_the_table_shows_values_beside_the_baselines():
    (line,) = [line for line in shown(report_table(report())).splitlines() if "ndcg@10" in line]
    for value in ("0.2000", "0.1500 .. 0.2500", "0.0500", "0.1250", "4.00", "1,943"):
        assert value in line
    assert line.index("0.0500") < line.index("0.1250"), "popularity comes first"
    for text in ("full ranking", "1,943 of 5,000 users", "popularity", "itemknn"):
        assert text in shown(report_table(report()))
    assert "training mean" not in shown(report_table(report())), "a baseline without metrics has no column"


def test_the_slices_are_a_table_of_their_own():
    (line,) = [line for line in shown(slices_table(report().slices)).splitlines() if "history 5-9" in line]
    assert "0.3000" in line
    assert "321" in line


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
