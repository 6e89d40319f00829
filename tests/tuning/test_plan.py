import json
import re

import pytest
import yaml

from raysys.errors import UserError
from tuning.plan import describe, read_plan


def test_a_plan_is_read_from_files(tune_file, contract_dataset):
    plan = read_plan(tune_file())
    assert plan.first_values == {
        "weighting.weights.rating": 0.2,
        "optimizer.learning_rate": 0.02,
        "model.dropout": 0.0,
    }
    assert plan.base["dataset"] == str(contract_dataset.path.absolute())
    assert plan.most_epochs == 3
    assert not plan.lower_is_better


def test_a_candidate_is_a_whole_train_config(tune_node):
    plan = read_plan(tune_node)
    config = plan.candidate({"weighting.weights.rating": 0.7, "model.dropout": 0.2})
    assert config.weighting.weights == {"rating": 0.7}
    assert (config.model.dropout, config.model.width, config.optimizer.learning_rate) == (0.2, 16, 0.02)
    assert config.training.early_stopping.metric == "next_item.ndcg@10"


def test_a_kind_is_set_before_what_lies_inside_it(tune_node):
    space = {
        "model.backbone[sasrec].num_blocks": {"kind": "int", "low": 1, "high": 3},
        "adapt.kind": {"kind": "choice", "values": ["full", "heads"]},
    }
    config = read_plan({**tune_node, "space": space}).candidate(
        {"model.backbone[sasrec].num_blocks": 3, "adapt.kind": "heads", "model.backbone.kind": "sasrec"}
    )
    assert config.model.backbone.num_blocks == 3
    assert config.adapt.kind == "heads"


SHARING = {
    "model.sharing.kind": {"kind": "choice", "values": ["shared_bottom", "mmoe", "ple"]},
    "model.sharing[ple].num_own": {"kind": "int", "low": 1, "high": 3},
    "model.sharing[mmoe].num_experts": {"kind": "int", "low": 2, "high": 8},
    "model.sharing.hidden": {"kind": "choice", "values": [16, 32]},
}


def test_every_kind_of_the_space_makes_a_train_config(tune_node, base_node):
    base = {**base_node, "model": {**base_node["model"], "sharing": {"kind": "mmoe", "num_experts": 3, "dropout": 0.4}}}
    plan = read_plan({**tune_node, "base": base, "space": SHARING, "constraints": ["model.sharing[ple].num_own < 3"]})
    assert plan.first_values == {"model.sharing.kind": "mmoe", "model.sharing[mmoe].num_experts": 3}
    seen = set()
    for params in plan.space_of.grid():
        values = plan.space_of.values(params)
        sharing = plan.candidate(values).model.sharing
        assert sharing.kind == values["model.sharing.kind"]
        assert sharing.hidden == values["model.sharing.hidden"]
        assert sharing.dropout == (0.4 if sharing.kind == "mmoe" else 0.1), "another kind has its own defaults"
        assert plan.allows(plan.candidate(values)) == (getattr(sharing, "num_own", 1) < 3)
        seen.add((sharing.kind, getattr(sharing, "num_own", None), getattr(sharing, "num_experts", None)))
    assert len(seen) == len(plan.space_of.grid()) / 2 == 1 + 3 + 7


def test_the_weights_of_tasks_are_searched_as_shares(tune_node):
    space = {"weighting.weights": {"kind": "simplex", "keys": ["next_item", "rating"], "low": 0.05}}
    plan = read_plan({**tune_node, "space": space})
    assert plan.first_values == {"weighting.weights.next_item": 1.0, "weighting.weights.rating": 0.2}
    assert read_plan({**tune_node, "space": space, "constraints": ["weighting.weights.next_item > 0"]}).constraints
    assert plan.candidate(plan.first_values).weighting.weights == {"next_item": 1.0, "rating": 0.2}


def test_several_objectives_are_told(tune_node):
    node = {key: value for key, value in tune_node.items() if key != "metric"}
    objectives = [{"metric": "parameters"}, {"metric": "rating.rmse"}, {"metric": "next_item.ndcg@10"}]
    plan = read_plan({**node, "objectives": objectives})
    assert (plan.config.searcher.kind, plan.config.scheduler.kind) == ("gp", "none")
    named = read_plan({**node, "objectives": objectives, "searcher": {"kind": "tpe"}})
    assert named.config.searcher.kind == "tpe"
    assert (plan.metric, plan.lower_is_better) == ("rating.rmse", True)
    assert plan.candidate({}).training.early_stopping.metric == "rating.rmse"
    assert describe(plan)["metric"] == (
        "parameters (lower is better); rating.rmse (lower is better); next_item.ndcg@10 (higher is better)"
    )


def test_settings_reach_into_the_search_and_its_base(tune_file):
    settings = ["num_trials=2", "base.training.epochs=7", "space={model.dropout: {kind: choice, values: [0.0, 0.5]}}"]
    plan = read_plan(tune_file(), settings, root="elsewhere")
    assert (plan.config.num_trials, plan.most_epochs, plan.base["root"]) == (2, 7, "elsewhere")
    assert plan.space["model.dropout"].probes() == (0.0, 0.5)


def test_the_longest_trial_sets_the_most_epochs(tune_node):
    space = {"training.epochs": {"kind": "int", "low": 2, "high": 9}}
    assert read_plan({**tune_node, "space": space}).most_epochs == 9


def test_without_early_stopping_the_metric_still_picks_the_epoch(tune_node, base_node):
    base = {**base_node, "training": {"epochs": 3, "early_stopping": None}}
    stopping = read_plan({**tune_node, "base": base}).candidate({}).training.early_stopping
    assert (stopping.metric, stopping.patience) == ("next_item.ndcg@10", 3)


FLOAT = {"kind": "float", "low": 0.1, "high": 0.9}
REFUSED = {
    "no such path": ({"space": {"model.dropuot": FLOAT}}, "space.model.dropuot = 0.1", "did you mean 'dropout'"),
    "a path through a value": ({"space": {"seed.x": FLOAT}}, "seed.x", "plain value"),
    "a kind that is not there": ({"space": {"model.backbone[hstu].width": FLOAT}}, "space.model.backbone", "nothing"),
    "a path with slashes": ({"space": {"model/dropout": FLOAT}}, "space.model/dropout", "dots"),
    "a value out of range": (
        {"space": {"model.dropout": {"kind": "float", "low": 0.0, "high": 1.5}}},
        "space.model.dropout = 1.5",
        "less than 1",
    ),
    "a choice of no kind": (
        {"space": {"model.backbone.kind": {"kind": "choice", "values": ["sasrec", "sasrek"]}}},
        "space.model.backbone.kind = sasrek",
        "did you mean 'sasrec'",
    ),
    "real numbers for whole ones": (
        {"space": {"training.batch_size": {"kind": "float", "low": 8, "high": 64}}},
        "=",
        "integer",
    ),
    "an empty space": ({"space": {}}, "space", "at least 1 item"),
    "an unknown scheduler": ({"scheduler": {"kind": "ash"}}, "scheduler", "did you mean 'asha'"),
    "a grace that spares all": ({"scheduler": {"grace_epochs": 3}}, "scheduler.grace_epochs: 3", "{kind: none}"),
    "a training metric": ({"metric": "loss/next_item"}, "metric", "TASK.METRIC"),
    "a task that is not trained": ({"metric": "nextitem.ndcg@10"}, "metric", "did you mean 'next_item'"),
    "a depth that is not measured": ({"metric": "next_item.ndcg@7"}, "metric", "5, 10"),
    "a kind that the space does not offer": (
        {
            "space": {
                "model.backbone.kind": {"kind": "choice", "values": ["sasrec", "gru"]},
                "model.backbone[hstu].num_blocks": {"kind": "int", "low": 1, "high": 2},
            }
        },
        "space.model.backbone[hstu].num_blocks",
        "nor does the space offer it",
    ),
    "a key that another kind has not": (
        {
            "space": {
                "model.sharing.kind": {"kind": "choice", "values": ["shared_bottom", "ple"]},
                "model.sharing.num_own": {"kind": "int", "low": 1, "high": 2},
            }
        },
        "space.model.sharing.num_own",
        "unknown key 'num_own'",
    ),
    "shares of what has none": (
        {"space": {"model": {"kind": "simplex", "keys": ["width", "dropuot"]}}},
        "space.model:",
        "did you mean 'dropout'",
    ),
    "a constraint on nothing": ({"constraints": ["model.widht > 1"]}, "tune.yaml: constraints", "'model.width'"),
    "a constraint that the base breaks": ({"constraints": ["model.width > 16"]}, "model.width is 16", "in the base"),
    "a constraint on words": (
        {
            "space": {"training.precision": {"kind": "choice", "values": ["float32", "bfloat16"]}},
            "constraints": ["training.precision > 16"],
        },
        "training.precision is 'float32'",
        "not a number",
    ),
    "a constraint that is code": ({"constraints": ["print(1) < 2"]}, "constraints", "allowed are"),
    "an unknown searcher": ({"searcher": {"kind": "tpee"}}, "searcher", "did you mean 'tpe'"),
    "a grid without steps": ({"searcher": {"kind": "grid"}}, "tune.yaml: space.", "steps: 4"),
    "a metric beside objectives": ({"objectives": [{"metric": "seconds"}]}, "metric", "either"),
    "no metric": ({"metric": None}, "metric", "either"),
    "objectives of a task that is not trained": (
        {"metric": None, "objectives": [{"metric": "seconds"}, {"metric": "clik.auc"}]},
        "metric: 'clik.auc'",
        "tasks: next_item, rating",
    ),
    "a scheduler of one metric for two": (
        {
            "metric": None,
            "objectives": [{"metric": "seconds"}, {"metric": "rating.rmse"}],
            "scheduler": {"kind": "median"},
        },
        "scheduler: median",
        "not 2",
    ),
    "a rule that names no objective": (
        {
            "metric": None,
            "objectives": [{"metric": "seconds"}, {"metric": "rating.rmse"}],
            "pick": {"kind": "weighted", "weights": {"second": 1}},
        },
        "pick.weights: 'second'",
        "did you mean 'seconds'",
    ),
    "a number of workers that varies": (
        {"space": {"training.num_workers": {"kind": "choice", "values": [1, 2]}}},
        "space.training.num_workers",
        "write it into the base",
    ),
    "an unknown key": ({"num_trails": 3}, "num_trails", "did you mean 'num_trials'"),
    "no base": ({"base": None}, "base", "a train config is expected"),
    "a base that is not there": ({"base": "nowhere.yaml"}, "nowhere.yaml", "no such config file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_search_is_refused_before_anything_starts(case, tune_file, tmp_path, command):
    nodes, *expected = REFUSED[case]
    code, out, err = command("tune", tune_file(**nodes))
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    for text in expected:
        assert text in err
    assert not (tmp_path / "store").exists()


def test_a_bad_base_is_refused_by_its_place(tune_file, base_node):
    path = tune_file()
    bad = {**base_node, "optimizer": {"learning_rate": -1}}
    (path.parent / "base.yaml").write_text(yaml.safe_dump(bad))
    with pytest.raises(UserError, match=r"tune\.yaml: base: optimizer\.learning_rate"):
        read_plan(path)


def test_a_share_of_the_users_is_no_use_to_vectors_of_all(tune_node, base_node):
    base = {**base_node, "model": {"width": 16, "backbone": {"kind": "mf"}}}
    space = {"model.dropout": tune_node["space"]["model.dropout"]}
    assert read_plan({**tune_node, "space": space, "base": base})
    with pytest.raises(UserError, match=r"training\.user_share: 0\.5.*a vector for every user"):
        read_plan({**tune_node, "space": space, "base": base, "dataset_fraction": 0.5})


def test_workers_share_no_gpu(tune_node, base_node):
    node = {**tune_node, "base": {**base_node, "training": {**base_node["training"], "num_workers": 2, "gpu": True}}}
    assert describe(read_plan({**node, "max_concurrent": 3, "cpus_per_trial": 2}))["cores"] == 12
    with pytest.raises(UserError, match=r"gpus_per_trial: 0\.5, but each of 2 workers"):
        read_plan({**node, "gpus_per_trial": 0.5})


def test_two_metrics_cannot_both_decide(tune_node, base_node):
    base = {**base_node, "training": {"epochs": 3, "early_stopping": {"metric": "rating.rmse"}}}
    with pytest.raises(UserError, match="one metric must decide"):
        read_plan({**tune_node, "base": base})


def test_a_dry_run_tells_and_does_nothing(tune_file, command, tmp_path):
    plan = read_plan(tune_file())
    told = describe(plan)
    assert (told["trials"], told["most_epochs"], told["users"]) == (4, 12, 200)
    assert told["first_trial"] == plan.first_values
    depth = {"model.backbone[sasrec].num_blocks": {"kind": "int", "low": 1, "high": 2}}
    assert "model.backbone[sasrec].num_blocks" in command("tune", tune_file(space=depth), "--dry-run")[2]
    code, out, _ = command("tune", tune_file(), "--dry-run", "--trials", 2, "--json")
    assert code == 0
    assert '"most_epochs": 6' in out
    assert not (tmp_path / "store").exists()


def test_an_output_that_holds_something_is_refused(tune_file, tmp_path, command):
    code, _, err = command("tune", tune_file(), "-o", tmp_path)
    assert code == 2
    assert "exists and is not empty" in err


def test_the_schema_of_a_search_is_whole(command):
    code, out, err = command("schema", "tune")
    assert code == 0, err
    refs = set(re.findall(r'"#/\$defs/(\w+)"', out))
    assert refs
    assert refs <= json.loads(out)["$defs"].keys()
