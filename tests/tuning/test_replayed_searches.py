"""benchmarks/search.py: searches on a recorded table, on small tables that are made up."""

import json
import sys
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
METRIC, OTHER = "next_item.ndcg@10", "rating.rmse"
RATES = [0.00001 * 1.3**step for step in range(29)]


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the benchmarks."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import _replay
        import search
    finally:
        sys.path.remove(str(BENCHMARKS))
    return _replay, search


@pytest.fixture
def table(benchmarks, tmp_path):
    """Learning rates, the better the nearer to the last but four; good ones are so from the first epoch on."""
    rows = []
    for number, rate in enumerate(RATES):
        params = {"optimizer.learning_rate": rate, "model.dropout": 0.0, "weighting.weights.rating": 0.2}
        curve = [{METRIC: 0.5 - abs(number - 24) / 100 + epoch / 1000, OTHER: 1.0} for epoch in range(3)]
        rows.append({"number": number, "params": params, "failed": None, "curve": curve})
    rows.append({"number": 99, "params": rows[0]["params"], "failed": "it did", "curve": []})
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"rows": rows}))
    return benchmarks[0].read_rows(path)


def replayed(benchmarks, node, table, **changes):
    plan = benchmarks[0].read_search({**node, "num_trials": len(table), **changes})
    return list(benchmarks[0].replay(plan, table))


@pytest.mark.parametrize("searcher", ["tpe", "random", pytest.param("gp", marks=pytest.mark.thorough)])
def test_every_row_is_a_trial_once_and_the_one_nearest_to_the_base_is_the_first(benchmarks, tune_node, table, searcher):
    trials = replayed(benchmarks, tune_node, table, searcher={"kind": searcher}, scheduler={"kind": "none"})
    assert sorted(trial.row.number for trial in trials) == list(range(len(RATES)))
    assert trials[0].row.number == len(RATES) - 1, "the base's rate is .02"
    assert all(len(trial.values) == 3 for trial in trials)
    assert {trial.objectives for trial in trials} == {(row.curve[-1][METRIC],) for row in table}


def test_a_search_can_begin_with_another_row(benchmarks, tune_node, table):
    plan = benchmarks[0].read_search({**tune_node, "num_trials": len(table)})
    numbers = [trial.row.number for trial in benchmarks[0].replay(plan, table, table[7])]
    assert numbers[0] == 7
    assert sorted(numbers) == list(range(len(RATES)))


def test_what_is_stopped_costs_less_and_the_best_is_not(benchmarks, tune_node, table):
    trials = replayed(benchmarks, tune_node, table, scheduler={"kind": "asha", "reduction_factor": 3})
    assert sum(len(trial.values) for trial in trials) < 0.7 * 3 * len(table)
    best = max(trials, key=lambda trial: trial.values[-1])
    assert best.row.number == 24
    assert len(best.values) == 3


@pytest.mark.thorough
def test_a_searcher_that_learns_is_there_sooner_than_chance(benchmarks, tune_node, table):
    places = {}
    for kind in ("tpe", "random"):
        found = [
            replayed(benchmarks, tune_node, table, searcher={"kind": kind}, scheduler={"kind": "none"}, seed=seed)
            for seed in range(5)
        ]
        places[kind] = [next(n for n, trial in enumerate(one) if trial.row.number == 24) for one in found]
    assert sum(places["tpe"]) < sum(places["random"])


@pytest.mark.parametrize("searcher", ["tpe", "random", pytest.param("gp", marks=pytest.mark.thorough)])
def test_a_searcher_that_chooses_has_every_row_once_and_repeats(benchmarks, tune_node, table, searcher):
    changes = {"searcher": {"kind": searcher}, "scheduler": {"kind": "none"}}
    plan = benchmarks[0].read_search({**tune_node, "num_trials": len(table), **changes})
    first, again = (
        [trial.row.number for trial in benchmarks[0].replay(plan, table, table[7], choosing=True)] for _ in range(2)
    )
    assert first == again
    assert first[0] == 7
    assert sorted(first) == list(range(len(RATES)))


@pytest.mark.thorough
def test_searchers_that_learn_choose_better_than_chance(benchmarks, tune_node, table):
    places = {}
    for kind in ("tpe", "gp", "random"):
        plans = [
            benchmarks[0].read_search(
                {
                    **tune_node,
                    "num_trials": len(table),
                    "searcher": {"kind": kind},
                    "scheduler": {"kind": "none"},
                    "seed": seed,
                }
            )
            for seed in range(5)
        ]
        found = [list(benchmarks[0].replay(plan, table, table[0], choosing=True)) for plan in plans]
        places[kind] = sum(next(n for n, trial in enumerate(one) if trial.row.number == 24) for one in found)
    assert places["tpe"] < places["random"]
    assert places["gp"] < 0.7 * places["random"]


def test_distances_are_those_of_the_unit_cube(benchmarks):
    domains = {
        "rate": FloatDistribution(0.001, 0.1, log=True),
        "kind": CategoricalDistribution(("a", "b")),
        "own": IntDistribution(1, 3),
        "gates": IntDistribution(2, 8),
    }
    one = {"rate": 0.001, "kind": "a", "own": 1}
    distance = benchmarks[0].distance
    assert distance(one, {**one, "rate": 0.01}, domains) == pytest.approx(0.5)
    assert distance(one, {**one, "own": 2}, domains) == pytest.approx(0.5)
    assert distance(one, {"rate": 0.001, "kind": "b", "gates": 8}, domains) == pytest.approx(1.0)


def test_the_area_of_two_objectives(benchmarks):
    area = benchmarks[0].hypervolume
    assert area([(1.0, 2.0), (2.0, 1.0)], (0.0, 0.0)) == 3.0
    assert area([(1.0, 2.0), (2.0, 1.0), (0.5, 1.5), (2.0, 0.5)], (0.0, 0.0)) == 3.0
    assert area([(1.0, 2.0)], (1.0, 0.0)) == 0.0


def test_figures_of_a_search(benchmarks):
    search = benchmarks[1]
    rows = [[0.5, 0.6, 0.95, 1.0], [1.0], [0.5] * 8]
    found = search.figures(rows, best=1.0, middle=0.5, epochs=8)
    assert found["epochs"] == [0.5, 0.125, 1.0]
    assert found["epochs_near"] == [0.375, 0.125, 1.0]
    assert found["regret"] == pytest.approx([0.8, 0.0, 1.0])
    assert found["value"] == pytest.approx([0.6, 1.0, 0.5])
