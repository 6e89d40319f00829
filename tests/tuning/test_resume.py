"""Searches that are killed, and go on: in a real Ray, by SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray

from raysys.errors import UserError
from tuning.command import tune_study
from tuning.storage import open_earlier

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def slow_node(tune_node, base_node) -> dict:
    """Five trials of seconds each, so that there is a midst of them."""
    base = {**base_node, "training": {"epochs": 9, "batch_size": 8}}
    space = {**tune_node["space"], "optimizer.learning_rate": {"kind": "float", "low": 0.005, "high": 0.02}}
    return {**tune_node, "base": base, "space": space, "num_trials": 5, "scheduler": {"grace_epochs": 3}}


@pytest.fixture(scope="module")
def undisturbed(slow_node, ray_cluster, tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("undisturbed") / "study"
    tune_study(slow_node, output=output)
    found = trials(output)
    assert {trial["status"] for trial in found} == {"finished", "stopped"}
    return found


def trials(study: Path) -> list[dict]:
    """The trials by number, without how long they took."""
    found = json.loads((study / "leaderboard.json").read_text())["trials"]
    return sorted(
        ({name: value for name, value in trial.items() if name != "seconds"} for trial in found),
        key=lambda trial: trial["number"],
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def lines(study: Path, number: int) -> int:
    path = study / "trials" / f"{number:03d}" / "history.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def kill_driver(node: dict, output: Path, number: int, after: int) -> None:
    """Start a search in a process of its own, and kill it when a trial has come so far."""
    code = f"from tuning.command import tune_study; tune_study({node!r}, output={str(output)!r})"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=environment)
    wait_for(lambda: lines(output, number) >= after or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the search had ended"


def test_a_killed_search_goes_on_to_the_same_end(undisturbed, slow_node, tmp_path, command):
    study = tmp_path / "study"
    kill_driver(slow_node, study, number=1, after=2)
    assert not (study / "best.yaml").exists()
    with pytest.raises(UserError, match="exists and is not empty"):
        tune_study(slow_node, output=study)
    code, _, err = command("tune", "--resume", study)
    assert code == 0, err
    assert trials(study) == undisturbed
    ended = [trial for trial in read_journal(study) if trial.state.name in ("COMPLETE", "PRUNED")]
    assert sorted(trial.user_attrs["number"] for trial in ended) == [0, 1, 2, 3, 4], "none is lost, none is there twice"
    assert not list(study.glob("trials/*/checkpoints"))


def read_journal(study: Path) -> list:
    return open_earlier(study).trials


def test_a_finished_study_has_nothing_to_do_and_can_be_given_more_trials(undisturbed, slow_node, tmp_path, command):
    study = tmp_path / "study"
    few = {**slow_node, "num_trials": 2, "base": {**slow_node["base"], "training": {"epochs": 2, "batch_size": 64}}}
    tune_study({**few, "scheduler": {"kind": "none"}}, output=study)
    first = trials(study)
    assert command("tune", "--resume", study)[0] == 0
    assert trials(study) == first
    assert command("tune", "--resume", study, "--trials", 3)[0] == 0
    more = trials(study)
    assert len(more) == 3
    assert more[:2] == first


def test_a_trial_whose_process_is_killed_goes_on_to_the_same_end(undisturbed, slow_node, tmp_path):
    study, killed = tmp_path / "study", []

    def kill() -> None:
        wait_for(lambda: lines(study, 1) >= 2)
        for process in psutil.process_iter(["name", "cmdline"]):
            if "ImplicitFunc" in " ".join(process.info["cmdline"] or ()):
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    tune_study(slow_node, output=study)
    killer.join()
    assert killed, "there was no trial to kill"
    assert trials(study) == undisturbed


def test_an_earlier_study_teaches_the_searcher(undisturbed, slow_node, tmp_path, command):
    """Its trials are known to the sampler and are no trials of the new search."""
    training = {"epochs": 2, "batch_size": 64}
    node = {**slow_node, "base": {**slow_node["base"], "training": training}, "scheduler": {"kind": "none"}}
    first = tune_study({**node, "num_trials": 3}, output=tmp_path / "first").parent
    file = tmp_path / "tune.yaml"
    file.write_text(json.dumps({**node, "num_trials": 2}))
    code, _, err = command("tune", file, "--warm-start", first, "-o", tmp_path / "second")
    assert code == 0, err
    assert "3 trials" in err
    assert len(trials(tmp_path / "second")) == 2
    assert len(read_journal(tmp_path / "second")) == 5
    file.write_text(json.dumps({**node, "metric": "rating.rmse"}))
    code, _, err = command("tune", file, "--warm-start", first, "-o", tmp_path / "third")
    assert code == 2
    assert "judged by next_item.ndcg@10" in err
    assert not (tmp_path / "third").exists()


def test_two_processes_do_not_run_one_search(slow_node, tmp_path, command):
    study = tmp_path / "study"
    code = f"from tuning.command import tune_study; tune_study({slow_node!r}, output={str(study)!r})"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=environment)
    try:
        wait_for(lambda: lines(study, 0) >= 1)
        code, _, err = command("tune", "--resume", study)
        assert code == 2
        assert "another process runs this search" in err
    finally:
        process.kill()
        process.wait()


def test_what_cannot_be_resumed_is_refused(slow_node, tmp_path, command):
    code, _, err = command("tune", "--resume", tmp_path)
    assert code == 2
    assert "no study" in err
    assert command("tune")[0] == 2
    (tmp_path / "tune.yaml").write_text("{}")
    (tmp_path / "trials").mkdir()
    code, _, err = command("tune", "--resume", tmp_path, "--set", "seed=3")
    assert code == 2
    assert "leave out --set" in err
