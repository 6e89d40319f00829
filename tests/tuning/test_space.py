import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raysys.configfile import build
from raysys.errors import UserError
from tuning.config import TuneConfig
from tuning.space import DISTRIBUTIONS, MISSING, default_values, distributions, value_at


def space_of(**parts):
    config = build(TuneConfig, {"base": "base.yaml", "metric": "next_item.ndcg@10", "space": parts}, "tune.yaml")
    return distributions(config.space)


def test_a_distribution_is_what_optuna_draws_from():
    space = space_of(
        a={"kind": "float", "low": 0.001, "high": 1, "log": True},
        b={"kind": "int", "low": 16, "high": 64, "step": 16},
        c={"kind": "choice", "values": [True, 1.5, "x", None]},
    )
    assert space["a"].domain() == FloatDistribution(0.001, 1.0, log=True)
    assert space["b"].domain() == IntDistribution(16, 64, step=16)
    assert space["c"].domain() == CategoricalDistribution((True, 1.5, "x", None))


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
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
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(case):
    node, expected = REFUSED[case]
    with pytest.raises(UserError) as caught:
        space_of(**{"model.dropout": node})
    assert expected in str(caught.value)
    assert "tune.yaml: space.model.dropout" in str(caught.value)


def test_the_default_is_the_base_where_it_lies_in_the_space():
    base = {"a": {"b": 0.5}, "c": 9, "d": {"kind": "x", "e": 2}, "f": [1, 2]}
    paths = {"a.b": (0, 1), "c": (0, 1), "d[x].e": (0, 9), "d[y].e": (0, 9), "f.1": (0, 9), "g": (0, 1)}
    space = space_of(**{path: {"kind": "float", "low": low, "high": high} for path, (low, high) in paths.items()})
    assert default_values(space, base) == {"a.b": 0.5, "d[x].e": 2, "f.1": 2}


@pytest.mark.parametrize("path", ["a.x", "a.b.c", "l.5", "l.x", "a[k]"])
def test_nothing_is_found_at_a_path_that_is_not_there(path):
    assert value_at({"a": {"b": 1}, "l": [1]}, path) is MISSING
