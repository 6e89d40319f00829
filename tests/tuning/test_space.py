import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raysys.configfile import build
from raysys.errors import UserError
from tuning.config import TuneConfig
from tuning.distribution import MISSING
from tuning.distributions import DISTRIBUTIONS
from tuning.space import Space, value_at

optuna.logging.set_verbosity(optuna.logging.ERROR)


def space_around(base, parts) -> Space:
    node = {"base": "base.yaml", "metric": "next_item.ndcg@10", "space": parts}
    return Space(build(TuneConfig, node, "tune.yaml").space, base)


def space_of(**parts):
    return space_around({}, parts).parts


def drawn(space: Space, count: int) -> list[tuple[dict, dict]]:
    """Draw values at random; each with Optuna's parameters."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask() for _ in range(count)]
    return [(space.suggest(trial), trial.params) for trial in trials]


def test_a_distribution_is_what_optuna_draws_from():
    space = space_of(
        a={"kind": "float", "low": 0.001, "high": 1, "log": True},
        b={"kind": "int", "low": 16, "high": 64, "step": 16},
        c={"kind": "choice", "values": [True, 1.5, "x", None]},
    )
    assert space["a"].domains("a") == {"a": FloatDistribution(0.001, 1.0, log=True)}
    assert space["b"].domains("b") == {"b": IntDistribution(16, 64, step=16)}
    assert space["c"].domains("c") == {"c": CategoricalDistribution((True, 1.5, "x", None))}


@pytest.mark.parametrize("kind", [kind for kind in DISTRIBUTIONS if kind != "simplex"])
def test_probes_can_be_drawn(kind):
    config = {"values": [1, 2]} if kind == "choice" else {"low": 1, "high": 9}
    distribution = space_of(x={"kind": kind, **config})["x"]
    assert all(distribution.contains(value) for value in distribution.probes())
    assert not distribution.contains(10)
    assert not distribution.contains(True)
    assert not distribution.contains("1")


def test_only_the_steps_of_a_range_can_be_drawn():
    distribution = space_of(x={"kind": "int", "low": 2, "high": 8, "step": 3})["x"]
    assert [value for value in range(10) if distribution.contains(value)] == [2, 5, 8]
    assert not distribution.contains(2.5)


REFUSED = {
    "no values": ({"kind": "choice", "values": []}, "at least 2 items"),
    "a value twice": ({"kind": "choice", "values": [1, 1.0]}, "1.0 is written twice"),
    "a list as value": ({"kind": "choice", "values": [[1], [2]]}, "values"),
    "bounds the wrong way": ({"kind": "float", "low": 1, "high": 0.1}, "low: 1.0 must lie below high: 0.1"),
    "an infinite bound": ({"kind": "float", "low": 0, "high": float("inf")}, "finite"),
    "log of zero": ({"kind": "float", "low": 0, "high": 1, "log": True}, "low above 0"),
    "log and step": ({"kind": "int", "low": 1, "high": 9, "log": True, "step": 2}, "leave one out"),
    "a step past the end": ({"kind": "int", "low": 1, "high": 8, "step": 3}, "write high: 7"),
    "an unknown kind": ({"kind": "flaot", "low": 0, "high": 1}, "did you mean 'float'"),
    "an unknown key": ({"kind": "float", "lo": 0, "high": 1}, "did you mean 'low'"),
    "no kind": ({"low": 0, "high": 1}, "`kind:` is missing"),
    "a bare value": (0.1, "a mapping with `kind:` is expected"),
    "one share": ({"kind": "simplex", "keys": ["a"]}, "at least 2 items"),
    "a share twice": ({"kind": "simplex", "keys": ["a", "a"]}, "'a' is written twice"),
    "shares that fill the whole": ({"kind": "simplex", "keys": ["a", "b"], "low": 0.5}, "leaves nothing to vary"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(case):
    node, expected = REFUSED[case]
    with pytest.raises(UserError) as caught:
        space_of(**{"model.dropout": node})
    assert expected in str(caught.value)
    assert "tune.yaml: space.model.dropout" in str(caught.value)


def test_a_weight_that_a_simplex_sets_cannot_vary_by_itself():
    parts = {"w": {"kind": "simplex", "keys": ["a", "b"]}, "w.a": {"kind": "float", "low": 0, "high": 1}}
    with pytest.raises(UserError, match=r"space\.w\.a: the simplex at w sets it already"):
        space_around({}, parts)


def test_the_default_is_the_base_where_it_lies_in_the_space():
    base = {"a": {"b": 0.5}, "c": 9, "d": {"kind": "x", "e": 2}, "f": [1, 2]}
    paths = {"a.b": (0, 1), "c": (0, 1), "d[x].e": (0, 9), "d[y].e": (0, 9), "f.1": (0, 9), "g": (0, 1)}
    space = space_around(
        base, {path: {"kind": "float", "low": low, "high": high} for path, (low, high) in paths.items()}
    )
    assert space.default_params() == space.default_values() == {"a.b": 0.5, "d[x].e": 2, "f.1": 2}


@pytest.mark.parametrize("path", ["a.x", "a.b.c", "l.5", "l.x", "a[k]"])
def test_nothing_is_found_at_a_path_that_is_not_there(path):
    assert value_at({"a": {"b": 1}, "l": [1]}, path) is MISSING


KINDS = {
    "part.size": {"kind": "int", "low": 1, "high": 2},
    "part[two].own": {"kind": "int", "low": 1, "high": 3},
    "part[three].own": {"kind": "choice", "values": ["a", "b"]},
    "part.kind": {"kind": "choice", "values": ["one", "two", "three"]},
}


def test_values_of_a_kind_are_drawn_where_that_kind_is():
    space = space_around({"part": {"kind": "two", "own": 3, "size": 2}}, KINDS)
    assert space.conditional
    seen = set()
    for values, params in drawn(space, 40):
        assert values == params
        assert next(iter(values)) == "part.kind"
        inside = {"one": set(), "two": {"part[two].own"}, "three": {"part[three].own"}}[values["part.kind"]]
        assert values.keys() == {"part.kind", "part.size"} | inside
        seen.add(values["part.kind"])
    assert len(seen) == 3
    assert space.default_params() == {"part.kind": "two", "part[two].own": 3, "part.size": 2}


def test_without_a_choice_of_kinds_the_base_has_the_kind():
    parts = {path: part for path, part in KINDS.items() if path != "part.kind"}
    space = space_around({"part": {"kind": "three", "own": "z"}}, parts)
    assert not space.conditional
    assert all(values.keys() == {"part.size", "part[three].own"} for values, _ in drawn(space, 5))
    assert space.default_params() == {}


def test_a_kind_inside_a_kind_is_followed():
    parts = {
        "a[x].b[z].c": {"kind": "int", "low": 1, "high": 2},
        "a[x].b.kind": {"kind": "choice", "values": ["z", "w"]},
        "a.kind": {"kind": "choice", "values": ["x", "y"]},
    }
    space = space_around({"a": {"kind": "y"}}, parts)
    assert space.contexts("a[x].b[z].c") == [{"a.kind": "x", "a[x].b.kind": "z"}]
    found = {tuple(sorted(values.items())) for values, _ in drawn(space, 60)}
    x, z = ("a.kind", "x"), ("a[x].b.kind", "z")
    expected = {(("a.kind", "y"),), (x, ("a[x].b.kind", "w"))}
    assert found == expected | {(x, z, ("a[x].b[z].c", value)) for value in (1, 2)}


def simplex(base=None, **config) -> Space:
    return space_around({"w": base} if base else {}, {"w": {"kind": "simplex", "keys": ["a", "b", "c"], **config}})


def test_a_simplex_draws_shares_evenly():
    shares = np.array([list(values.values()) for values, _ in drawn(simplex(total=1), 2000)])
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-4)
    assert np.allclose(shares.mean(axis=0), 1 / 3, atol=0.02)
    assert np.allclose(shares.var(axis=0), 1 / 18, atol=0.006)  # Dirichlet(1, 1, 1)


def test_a_simplex_keeps_the_sum_of_the_base():
    space = simplex({"a": 3, "b": 0.5, "other": 9})  # c counts 1
    for values, params in drawn(space, 20):
        assert values.keys() == params.keys() == {"w.a", "w.b", "w.c"}
        assert math.isclose(sum(values.values()), 4.5, abs_tol=1e-4)
    assert math.isclose(sum(drawn(simplex(), 1)[0][0].values()), 3, abs_tol=1e-4)


@pytest.mark.parametrize("base", [{"a": 0.15, "b": 1, "c": 4}, {"a": 5}, {"a": 1000, "b": 0.1}, {"b": 0}])
def test_the_weights_of_the_base_are_drawn_again(base):
    space = simplex(base)
    own = {f"w.{key}": base.get(key, 1) for key in "abc"}
    assert space.default_values() == pytest.approx(own, abs=1e-4 * sum(own.values()))
    assert space.values(space.default_params()) == space.default_values()


def test_a_share_below_the_least_is_not_drawn():
    assert simplex({"a": 1, "b": 100, "c": 100}, low=0.1).default_params() == {}
    assert simplex({"a": 0, "b": 0, "c": 0}).default_params() == {}
    for values, _ in drawn(simplex(low=0.1, total=2), 50):
        assert min(values.values()) >= 0.2


def test_a_grid_is_every_point_once():
    space = space_around({"part": {"kind": "one"}}, KINDS)
    points = space.grid()
    assert len(points) == 2 * (1 + 3 + 2)
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    for point in points:
        assert space.values(point) == point


def test_ranges_of_a_grid_have_steps():
    space = space_around(
        {},
        {
            "a": {"kind": "float", "low": 0, "high": 1, "steps": 5},
            "b": {"kind": "float", "low": 0.001, "high": 10, "log": True, "steps": 5},
        },
    )
    assert sorted({point["a"] for point in space.grid()}) == [0, 0.25, 0.5, 0.75, 1]
    assert sorted({point["b"] for point in space.grid()}) == pytest.approx([0.001, 0.01, 0.1, 1, 10])
    assert len(space.grid()) == 25
    loose = space_around({}, {"a": {"kind": "float", "low": 0, "high": 1}})
    with pytest.raises(UserError, match=r"space\.a: a grid wants to know its steps"):
        loose.grid()
    wide = {name: {"kind": "int", "low": 1, "high": 1000} for name in "ab"}
    with pytest.raises(UserError, match="1,000,000 points"):
        space_around({}, wide).grid()


def test_a_grid_shares_out_the_parts_of_a_simplex():
    space = simplex(steps=3, total=3)
    found = sorted(tuple(space.values(point).values()) for point in space.grid())
    expected = [(a, b, 3 - a - b) for a in range(4) for b in range(4 - a)]
    assert len(space.grid()) == len(expected)
    assert np.allclose(found, expected, atol=1e-4)
