import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.component import OneOf
from raysys.configfile import build
from raysys.errors import UserError
from tuning.config import TuneConfig
from tuning.objectives import PICKS, Objectives, Pick

METRICS = ["click.auc", "seconds", "rating.rmse"]
LOWER = [False, True, True]
numbers = st.integers(0, 4).map(float)
some_points = st.dictionaries(st.integers(0, 30), st.tuples(numbers, numbers, numbers), min_size=1, max_size=12)


def rule(**node) -> Pick:
    return PICKS[node["kind"]](OneOf(PICKS).validate(node))


def beats(one, other) -> bool:
    better = [a < b if lower else a > b for a, b, lower in zip(one, other, LOWER, strict=True)]
    worse = [a > b if lower else a < b for a, b, lower in zip(one, other, LOWER, strict=True)]
    return any(better) and not any(worse)


def test_directions_follow_from_the_names():
    objectives = Objectives(METRICS)
    assert objectives.directions == ["maximize", "minimize", "minimize"]
    assert objectives.lower_is_better == (False, True, True)
    assert Objectives(["next_item.ndcg@10", "latency_ms"]).directions == ["maximize", "minimize"]
    assert Objectives(["seconds", "parameters", "rating.rmse"]).primary == "rating.rmse"


@given(some_points)
def test_the_unbeaten_are_those_that_no_other_beats(points):
    expected = [n for n, own in points.items() if not any(beats(other, own) for other in points.values())]
    found = Objectives(METRICS).pareto(points)
    assert found == expected
    assert found


@given(some_points, st.tuples(*[st.floats(0.1, 9)] * 3))
def test_the_winner_of_a_weighted_sum_is_unbeaten(points, weights):
    objectives = Objectives(METRICS)
    winner = objectives.pick(rule(kind="weighted", weights=dict(zip(METRICS, weights, strict=True))), points)
    assert winner in objectives.pareto(points)


@given(some_points, numbers)
def test_the_best_within_limits_is_as_the_rule_says(points, most):
    objectives, best = Objectives(METRICS), rule(kind="best", of="click.auc", subject_to={"seconds": {"at_most": most}})
    fitting = {n: values for n, values in points.items() if values[1] <= most}
    if not fitting:
        with pytest.raises(UserError, match="no trial has seconds at most"):
            objectives.pick(best, points)
        return
    winner = objectives.pick(best, points)
    assert winner in fitting
    assert points[winner][0] == max(values[0] for values in fitting.values())
    assert not any(beats(other, points[winner]) for other in fitting.values())


def test_one_objective_needs_no_rule():
    points = {3: [0.2], 5: [0.9], 7: [0.9]}
    assert Objectives(["click.auc"]).pick(rule(kind="weighted"), points) == 5
    assert Objectives(["rating.rmse"]).pick(rule(kind="weighted"), points) == 3
    assert Objectives(["click.auc"]).pick(rule(kind="weighted"), {}) is None


def test_weights_decide_between_good_and_cheap():
    objectives, points = Objectives(["click.auc", "seconds"]), {0: (0.8, 100.0), 1: (0.7, 20.0), 2: (0.5, 10.0)}
    assert objectives.pick(rule(kind="weighted"), points) == 1
    assert objectives.pick(rule(kind="weighted", weights={"click.auc": 9}), points) == 0
    assert objectives.pick(rule(kind="weighted", weights={"seconds": 9}), points) == 2
    assert objectives.pick(rule(kind="weighted"), {4: (0.8, 100.0)}) == 4


def test_where_no_trial_is_within_the_limits_the_closest_is_named():
    limits = {"click.auc": {"at_least": 0.9}, "seconds": {"at_most": 5, "at_least": 1}}
    points = {0: (0.8, 100.0), 1: (0.7, 6.0), 2: (0.1, 50.0)}
    with pytest.raises(UserError) as caught:
        Objectives(["click.auc", "seconds"]).pick(rule(kind="best", of="click.auc", subject_to=limits), points)
    assert str(caught.value) == (
        "pick.subject_to: no trial has click.auc at least 0.9 and seconds at least 1 and at most 5; "
        "the closest is trial 1 with click.auc 0.7, seconds 6"
    )


def test_rules_name_objectives():
    with pytest.raises(UserError, match=r"pick\.weights: 'click\.acu' is not an objective; did you mean 'click\.auc'"):
        rule(kind="weighted", weights={"click.acu": 1}).check(METRICS)
    best = rule(kind="best", of="click.auc", subject_to={"minutes": {"at_most": 1}})
    with pytest.raises(UserError, match=r"pick\.subject_to: 'minutes'"):
        best.check(METRICS)
    rule(kind="best", of="click.auc", subject_to={"seconds": {"at_most": 1}}).check(METRICS)


def config_of(**node) -> TuneConfig:
    space = {"model.dropout": {"kind": "choice", "values": [0.1, 0.2]}}
    return build(TuneConfig, {"base": "base.yaml", "space": space, **node}, "tune.yaml")


def test_one_metric_or_several_objectives():
    assert config_of(metric="click.auc").judged_by.metrics == ("click.auc",)
    several = config_of(objectives=[{"metric": "click.auc"}, {"metric": "seconds"}])
    assert several.judged_by.metrics == ("click.auc", "seconds")
    assert several.scheduler.kind == "none"
    assert build(TuneConfig, several.model_dump(mode="json"), "again") == several
    one = config_of(metric="click.auc")
    assert build(TuneConfig, one.model_dump(mode="json"), "again") == one


TWO = [{"metric": "click.auc"}, {"metric": "seconds"}]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "either `metric`, or `objectives`"),
        ({"metric": "click.auc", "objectives": TWO}, "either `metric`, or `objectives`"),
        ({"objectives": TWO[:1]}, "two or more"),
        ({"objectives": TWO[:1] * 2}, "each once"),
        ({"metric": "seconds"}, "needs a validation metric"),
        ({"objectives": [{"metric": "seconds"}, {"metric": "parameters"}]}, "needs a validation metric"),
        ({"metric": "click.auc", "pick": {"kind": "weighted", "weights": {"click.auc": 2}}}, "needs no rule"),
        ({"objectives": TWO, "pick": {"kind": "best", "of": "seconds", "subject_to": {}}}, "at least 1 item"),
        ({"objectives": TWO, "pick": {"kind": "best", "of": "seconds", "subject_to": {"x": {}}}}, "at_least or"),
        (
            {
                "objectives": TWO,
                "pick": {"kind": "best", "of": "seconds", "subject_to": {"x": {"at_least": 2, "at_most": 1}}},
            },
            "lies above",
        ),
        ({"objectives": TWO, "pick": {"kind": "wieghted"}}, "did you mean 'weighted'"),
    ],
)
def test_what_a_search_cannot_be_judged_by_is_refused(node, message):
    with pytest.raises(UserError, match=message):
        config_of(**node)
