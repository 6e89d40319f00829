"""Real searches in a real Ray."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

import raysys
from raysys.config import RunConfig
from raysys.configfile import build, read_yaml
from raysys.errors import UserError
from tuning import observer
from tuning.command import tune_study
from tuning.plan import read_plan

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Found:
    """What a search wrote."""

    path: Path
    board: dict

    @property
    def by_number(self) -> list[dict]:
        return sorted(self.board["trials"], key=lambda trial: trial["number"])


def search(node: dict, output: Path) -> Found:
    best = tune_study(node, output=output)
    assert best == output / "best.yaml"
    return Found(output, json.loads((output / "leaderboard.json").read_text()))


@pytest.fixture(scope="module")
def found(tune_node, ray_cluster, tmp_path_factory) -> Found:
    return search(tune_node, tmp_path_factory.mktemp("study") / "one")


def test_the_first_trial_is_the_base(found, tune_node):
    first = found.by_number[0]
    assert first["values"] == read_plan(tune_node).first_values
    assert first["status"] == "finished"
    assert first["epochs"] == 3


def test_the_leaderboard_tells_what_the_histories_tell(found):
    trials = found.by_number
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    values = [trial["value"] for trial in found.board["trials"]]
    assert values == sorted(values, reverse=True)
    for trial in trials:
        lines = (found.path / "trials" / f"{trial['number']:03d}" / "history.jsonl").read_text().splitlines()
        history = [json.loads(line)["next_item.ndcg@10"] for line in lines]
        assert (trial["epochs"], trial["value"]) == (len(history), max(history))
        assert trial["best_epoch"] == history.index(max(history)) + 1
        assert trial["seconds"] > 0


def test_poor_trials_are_stopped(found):
    stopped = [trial for trial in found.by_number if trial["status"] == "stopped"]
    assert stopped
    assert all(trial["epochs"] < 3 for trial in stopped)


def test_nothing_but_the_record_is_kept(found):
    names = {path.name for path in found.path.iterdir()}
    assert names == {"tune.yaml", "study.journal", "trials", "leaderboard.json", "tuning.html", "best.yaml"}
    assert {path.name for path in found.path.glob("trials/*/*")} == {"history.jsonl"}


def test_optuna_opens_the_journal(found):
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(found.path / "study.journal")))
    study = optuna.load_study(study_name=None, storage=storage)
    assert [trial.params for trial in study.trials] == [trial["values"] for trial in found.by_number]
    assert study.best_value == found.board["trials"][0]["value"]


def test_the_best_config_trains_unchanged_and_keeps_its_word(found, tmp_path):
    node = read_yaml(found.path / "best.yaml")
    assert set(node) == set(RunConfig.model_fields)
    best = found.board["trials"][0]
    assert node["optimizer"]["learning_rate"] == best["values"]["optimizer.learning_rate"]
    assert node == build(RunConfig, node, "best.yaml").model_dump(mode="json")
    run = raysys.train(found.path / "best.yaml", output=str(tmp_path / "run"))
    assert run.record.best_epoch == best["best_epoch"]
    assert run.record.valid["next_item.ndcg@10"] == pytest.approx(best["value"], abs=0.02)


def test_the_same_seed_gives_the_same_search(found, tmp_path):
    """The study's own tune.yaml, with the resolved base inside, runs it again."""
    again = search(read_yaml(found.path / "tune.yaml"), tmp_path / "again")
    assert [_timeless(trial) for trial in again.by_number] == [_timeless(trial) for trial in found.by_number]
    for number in range(4):
        histories = [_losses(study.path / "trials" / f"{number:03d}" / "history.jsonl") for study in (found, again)]
        assert histories[0] == histories[1]


def _timeless(trial: dict) -> dict:
    return {key: value for key, value in trial.items() if key != "seconds"}


def _losses(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def test_a_failing_trial_is_recorded_and_survived(tune_node, ray_cluster, tmp_path, capsys):
    space = {"optimizer.learning_rate": {"kind": "choice", "values": [0.02, 1e30]}}
    node = {**tune_node, "space": space, "scheduler": {"kind": "none"}, "num_trials": 3}
    found = search(node, tmp_path / "study")
    assert {trial["status"] for trial in found.by_number} == {"finished", "failed"}
    for trial in found.by_number:
        failed = trial["values"]["optimizer.learning_rate"] == 1e30
        assert trial["status"] == ("failed" if failed else "finished")
        assert (trial["reason"] or "").startswith("FloatingPointError: the loss is nan" if failed else "")
    assert found.board["trials"][-1]["status"] == "failed"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "failed: FloatingPointError" in captured.err
    assert "Traceback" not in captured.err


def test_a_terminal_sees_how_the_search_stands(tune_node, ray_cluster, tmp_path, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(observer, "console", terminal)
    search({**tune_node, "num_trials": 2}, tmp_path / "study")
    told = screen.getvalue()
    assert "1 running of 2 trials" in told
    assert "1 running, 1 finished of 2 trials, about" in told
    assert "2/2 trial 1" in told


def test_nothing_is_found_where_every_trial_fails(tune_node, base_node, ray_cluster, tmp_path):
    base = {**base_node, "optimizer": {"learning_rate": 1e30, "warmup_steps": 0}}
    space = {"model.dropout": {"kind": "choice", "values": [0.0, 0.2]}}
    node = {**tune_node, "base": base, "space": space, "num_trials": 1}
    with pytest.raises(UserError, match=r"every trial failed \(FloatingPointError"):
        tune_study(node, output=tmp_path / "study")
    assert (tmp_path / "study" / "leaderboard.json").is_file()
    assert not (tmp_path / "study" / "best.yaml").exists()


def test_a_base_that_cannot_be_trained_ends_the_search_and_leaves_nothing(tune_node, ray_cluster, tmp_path):
    with pytest.raises(UserError, match=r"metric: 'next_item\.ndgc@10' is not measured; did you mean"):
        tune_study({**tune_node, "metric": "next_item.ndgc@10"}, output=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_more_than_there_is_is_refused(tune_node, base_node, ray_cluster, tmp_path):
    with pytest.raises(UserError, match="cpus_per_trial: 4000"):
        tune_study({**tune_node, "cpus_per_trial": 4000}, output=tmp_path / "study")
    base = {**base_node, "training": {"epochs": 3, "gpu": True}}
    with pytest.raises(UserError, match=r"gpus_per_trial: 4000, but Ray has \d+ GPUs here"):
        tune_study({**tune_node, "base": base, "gpus_per_trial": 4000}, output=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_verb_goes_on_from_a_run_and_prints_the_best(tiny_run, tmp_path, command):
    """Two trials at a time, an error as metric, and the parent's model under every trial."""
    (tmp_path / "base.yaml").write_text(
        "project: tiny\ntasks: {next_item: {}, rating: {}}\ntraining: {epochs: 2, batch_size: 32, threads: 1}\n"
    )
    (tmp_path / "tune.yaml").write_text(
        "base: base.yaml\nspace: {model.dropout: {kind: float, low: 0.0, high: 0.5}}\n"
        "metric: rating.rmse\nmax_concurrent: 2\nscheduler: {kind: none}\n"
    )
    root = tiny_run.path.parents[2]
    options = ["--from", tiny_run.path, "--root", root, "--trials", 3]
    code, out, err = command("tune", tmp_path / "tune.yaml", *options, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert Path(told["study"]).parent == root / "studies" / "tiny"
    values = [trial["value"] for trial in told["trials"]]
    assert told["lower_is_better"]
    assert values == sorted(values)
    config = build(RunConfig, read_yaml(told["best"]), told["best"])
    assert config.start_from == str(tiny_run.path)
    assert (config.model.width, config.model.max_length) == (16, 16)
    assert config.training.early_stopping.metric == "rating.rmse"


def test_a_search_on_a_share_of_the_users_verifies_its_best_on_all(tune_node, ray_cluster, tmp_path):
    node = {**tune_node, "num_trials": 3, "dataset_fraction": 0.5, "verify": 1, "scheduler": {"kind": "none"}}
    found = search(node, tmp_path / "study")
    verified = [trial for trial in found.by_number if trial["verified"]]
    best = max(found.by_number, key=lambda trial: trial["value"])
    assert {trial["number"] for trial in verified} == {0, best["number"]}
    assert all(trial["verified"] != trial["objectives"] for trial in verified)
    winner = max(verified, key=lambda trial: trial["verified"])
    config = read_yaml(found.path / "best.yaml")
    assert config["training"]["user_share"] == 1.0
    assert config["optimizer"]["learning_rate"] == winner["values"]["optimizer.learning_rate"]
    whole = search({**node, "num_trials": 1, "dataset_fraction": 1.0}, tmp_path / "whole")
    assert whole.by_number[0]["objectives"] == found.by_number[0]["verified"]
