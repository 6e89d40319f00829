import importlib.util

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from raysys.component import OneOf
from raysys.configfile import build
from raysys.errors import UserError
from tuning.config import TuneConfig
from tuning.searchers import SEARCHERS, CmaEs, Searcher, Sought
from tuning.space import Space

pytestmark = pytest.mark.thorough  # seconds each: not before every commit

optuna.logging.set_verbosity(optuna.logging.ERROR)

NUMBERS = {
    "x": {"kind": "float", "low": 0, "high": 1, "steps": 4},
    "y": {"kind": "float", "low": 0.01, "high": 1, "log": True, "steps": 4},
    "w": {"kind": "simplex", "keys": ["a", "b"], "steps": 3},
}
KINDS = {
    **NUMBERS,
    "part.kind": {"kind": "choice", "values": ["one", "two"]},
    "part[two].own": {"kind": "int", "low": 1, "high": 3},
}
BASE = {"x": 0.5, "part": {"kind": "one"}}
needs_cmaes = pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="cmaes is not installed")
KINDS_OF_SEARCHERS = [pytest.param(kind, marks=needs_cmaes if kind == "cmaes" else ()) for kind in SEARCHERS]


def space_of(parts) -> Space:
    return Space(build(TuneConfig, {"base": "b", "metric": "m", "space": parts}, "test").space, BASE)


def searcher_of(kind: str, **config) -> Searcher:
    return SEARCHERS[kind](OneOf(SEARCHERS).validate({"kind": kind, **config}))


def open_study(path, kind, space, directions=("maximize",), seed=7, num_trials=12) -> optuna.Study:
    """Open a study as a new process would."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    sampler = searcher_of(kind).sampler(seed, Sought(space, num_trials, len(directions)))
    study = optuna.create_study(
        storage=storage, study_name="s", directions=list(directions), sampler=sampler, load_if_exists=True
    )
    if not study.trials:
        study.enqueue_trial(space.default_params())
    return study


def score(values) -> float:
    return values["w.a"] - (values["x"] - 0.3) ** 2 + 0.1 * values.get("part[two].own", 0)


def run(path, kind, space, count, directions=("maximize",), seed=7, num_trials=12) -> list[dict]:
    """Go on with a study for so many trials; returns the parameters of all."""
    study = open_study(path, kind, space, directions, seed, num_trials)
    for _ in range(count):
        trial = study.ask()
        values = space.suggest(trial)
        study.tell(trial, [score(values), values["y"]][: len(directions)])
    return [trial.params for trial in study.get_trials()]


@pytest.mark.parametrize("kind", KINDS_OF_SEARCHERS)
def test_an_interrupted_search_is_the_same_search(kind, tmp_path):
    space = space_of(NUMBERS if kind == "cmaes" else KINDS)
    whole = run(tmp_path / "whole", kind, space, 12)
    run(tmp_path / "parts", kind, space, 5)
    assert run(tmp_path / "parts", kind, space, 7) == whole
    assert whole[0]["x"] == 0.5
    assert len({tuple(params.items()) for params in whole}) == 12
    assert run(tmp_path / "other", kind, space, 12, seed=8)[1:] != whole[1:]


@pytest.mark.parametrize("kind", KINDS_OF_SEARCHERS)
def test_a_trial_that_was_interrupted_is_taken_up(kind, tmp_path):
    """The storage holds what was drawn for it, so the search goes on with the same number and values."""
    space = space_of(NUMBERS if kind == "cmaes" else KINDS)
    whole = run(tmp_path / "whole", kind, space, 9)
    run(tmp_path / "parts", kind, space, 5)
    values = space.suggest(open_study(tmp_path / "parts", kind, space).ask())
    study = open_study(tmp_path / "parts", kind, space)
    (running,) = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    assert space.values(running.params) == values
    study.tell(running.number, score(values))
    assert run(tmp_path / "parts", kind, space, 3) == whole


def test_configs_that_are_not_allowed_are_passed_over_the_same_way(tmp_path):
    """Pruned trials, as a search tells of what its constraints forbid, with one objective and with two."""
    space = space_of(KINDS)
    for directions in (["maximize"], ["maximize", "minimize"]):
        seen = []
        for name, rests in (("whole", (14,)), ("parts", (6, 8))):
            for rest in rests:
                study = open_study(tmp_path / f"{name}{len(directions)}", "tpe", space, directions)
                for _ in range(rest):
                    trial = study.ask()
                    values = space.suggest(trial)
                    if values["x"] > 0.6:
                        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    else:
                        study.tell(trial, [score(values), values["y"]][: len(directions)])
            seen.append([(trial.params, trial.state) for trial in study.get_trials()])
        assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", ["tpe", "random", "gp", "grid"])
def test_several_objectives_are_searched(kind, tmp_path):
    space = space_of(KINDS)
    searcher_of(kind).check(space, 2)
    assert len(run(tmp_path / "s", kind, space, 7, ("maximize", "minimize"))) == 7


def test_tpe_learns_after_its_random_start(tmp_path):
    """It counts the trials of the study, not those of a sampler that is made anew for each."""
    space = space_of({"x": NUMBERS["x"], "y": NUMBERS["y"], "w": NUMBERS["w"]})
    by_tpe, by_chance = (run(tmp_path / kind, kind, space, 40) for kind in ("tpe", "random"))
    assert by_tpe[1:3] == by_chance[1:3]
    away = [np.mean([abs(params["x"] - 0.3) for params in found[20:]]) for found in (by_tpe, by_chance)]
    assert away[0] < away[1]


def test_tpe_draws_every_parameter_by_itself_where_objectives_are_several(tmp_path):
    space = space_of(KINDS)
    for directions in (["maximize"], ["maximize", "minimize"]):
        path = tmp_path / str(len(directions))
        run(path, "tpe", space, 6, directions)
        study = open_study(path, "tpe", space, directions)
        together = study.sampler.infer_relative_search_space(study, study.get_trials()[-1])
        assert bool(together) == (len(directions) == 1)


def test_a_gaussian_process_of_several_objectives_begins_early(tmp_path):
    space = space_of(NUMBERS)
    for directions, random in ((["maximize"], 10), (["maximize", "minimize"], 4)):
        by_gp, by_chance = (
            run(tmp_path / f"{kind}{random}", kind, space, random + 2, directions, num_trials=40)
            for kind in ("gp", "random")
        )
        assert by_gp[:random] == by_chance[:random]
        assert all(one != other for one, other in zip(by_gp[random:], by_chance[random:], strict=True))


def test_a_gaussian_process_does_not_stay_where_it_is_refused(tmp_path):
    """It learns nothing from what is refused: after ten in a row one is drawn at random, until one is accepted."""
    space, drawn = space_of(NUMBERS), {}
    for kind in ("gp", "random"):
        study = open_study(tmp_path / kind, kind, space)
        for number in range(16):
            trial = study.ask()
            values = space.suggest(trial)
            if 4 <= number < 14:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, score(values))
        drawn[kind] = [trial.params for trial in study.get_trials()]
    same = [by_gp == by_chance for by_gp, by_chance in zip(drawn["gp"], drawn["random"], strict=True)]
    assert same == [True] * 3 + [False] * 11 + [True, False]


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")], ids=["one", "two"])
def test_a_gaussian_process_learns_of_parameters_that_only_some_trials_have(directions, tmp_path):
    """The best lies in one kind, at a value of a parameter of its own; even draws of it are .3 away on average."""
    parts = {path: KINDS[path] for path in ("part.kind", "part[two].own", "x")}
    space = space_of({**parts, "part[two].rate": NUMBERS["x"]})
    away = []
    for seed in range(3):
        study = open_study(tmp_path / str(seed), "gp", space, directions, seed)
        for _ in range(12):
            trial = study.ask()
            rate = space.suggest(trial).get("part[two].rate", -1.0)
            study.tell(trial, [-abs(rate - 0.8), abs(rate - 0.8)][: len(directions)])
            away.append(abs(rate - 0.8) if trial.number > 5 and rate >= 0 else np.nan)
    assert np.isfinite(away).sum() > 9, "of 18"
    assert np.nanmean(away) < 0.15


def test_a_grid_has_every_point_once_and_the_base_first(tmp_path):
    space = space_of({path: KINDS[path] for path in ("x", "w", "part.kind", "part[two].own", "y")})
    searcher = searcher_of("grid")
    assert len(space.grid()) == 4 * 4 * 4 * (1 + 3)
    assert searcher.most_trials(space) == len(space.grid()) + 1
    found = run(tmp_path / "s", "grid", space, 60)
    assert len({tuple(sorted(params.items())) for params in found}) == 60
    small = space_of({"x": {"kind": "choice", "values": [0.1, 0.5, 0.9]}})
    assert searcher.most_trials(small) == 3
    study = optuna.create_study(sampler=searcher.sampler(0, Sought(small, 3)))
    study.enqueue_trial(small.default_params())
    assert {small.suggest(study.ask())["x"] for _ in range(3)} == {0.1, 0.5, 0.9}


@pytest.mark.parametrize(
    ("kind", "parts", "objectives", "message"),
    [
        ("grid", {"x": {"kind": "float", "low": 0, "high": 1}}, 1, r"space\.x: a grid wants"),
        ("cmaes", NUMBERS, 2, "one objective"),
        ("cmaes", KINDS, 1, r"space\.part\.kind is a choice"),
        ("cmaes", {"x": NUMBERS["x"]}, 1, "two parameters"),
    ],
)
def test_what_a_searcher_cannot_do_is_refused(kind, parts, objectives, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=message):
        searcher_of(kind).check(space_of(parts), objectives)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"raysys\[cmaes\]"):
        CmaEs(CmaEs.Config()).check(space_of(NUMBERS), 1)


def test_other_trials_that_run_are_told_from_good_ones():
    space = space_of(NUMBERS)
    study = optuna.create_study(
        direction="maximize", sampler=searcher_of("tpe").sampler(0, Sought(space, 12, max_concurrent=4))
    )
    for _ in range(6):
        trial = study.ask()
        study.tell(trial, space.suggest(trial)["x"])
    running = [space.suggest(study.ask())["x"] for _ in range(4)]
    assert len(set(running)) == 4
