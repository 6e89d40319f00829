"""Searches whose trials have two workers each."""

import json
import threading
import time
from pathlib import Path

import psutil
import pytest

from raysys.errors import UserError
from tuning.command import tune_study

pytestmark = [pytest.mark.cluster, pytest.mark.process, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def node(tune_node, base_node) -> dict:
    """Three trials, of which the scheduler stops what is behind after its first epoch; no dropout, drawn by rank."""
    training = {"epochs": 2, "batch_size": 32, "max_failures": 0}
    space = {"optimizer.learning_rate": {"kind": "choice", "values": [0.01, 0.003, 0.00001]}}
    model = {**base_node["model"], "sharing": {"dropout": 0.0}}
    optimizer = {"learning_rate": 0.01, "warmup_steps": 0}
    base = {**base_node, "training": training, "model": model, "optimizer": optimizer}
    return {**tune_node, "base": base, "space": space, "num_trials": 3, "scheduler": {"reduction_factor": 2}}


def with_workers(node: dict, **training) -> dict:
    training = {**node["base"]["training"], "num_workers": 2, **training}
    return {**node, "base": {**node["base"], "training": training}}


def trials(study: Path) -> list[dict]:
    found = json.loads((study / "leaderboard.json").read_text())["trials"]
    return sorted(found, key=lambda trial: trial["number"])


def history(study: Path, number: int) -> list[dict]:
    path = study / "trials" / f"{number:03d}" / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def processes(name: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if name in " ".join(process.info["cmdline"] or ())]


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_two_workers_find_what_one_finds(node, ray_cluster, tmp_path):
    """The scheduler stops their trials too, and what has been stopped leaves nobody behind."""
    tune_study(node, output=tmp_path / "one")
    tune_study(with_workers(node), output=tmp_path / "two")
    one, two = trials(tmp_path / "one"), trials(tmp_path / "two")
    assert {trial["status"] for trial in one} == {"finished", "stopped"}
    for alone, together in zip(one, two, strict=True):
        assert together["values"] == alone["values"]
        assert (together["status"], together["epochs"]) == (alone["status"], alone["epochs"])
        assert together["value"] == pytest.approx(alone["value"], abs=1e-4)
        lines = [history(tmp_path / name, alone["number"])[: alone["epochs"]] for name in ("one", "two")]
        for expected, found in zip(*lines, strict=True):
            assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
            assert found["rating.rmse"] == pytest.approx(expected["rating.rmse"], abs=1e-4)
    wait_until(lambda: not processes("RayTrainWorker"), 30)
    assert not list((tmp_path / "two").glob("trials/*/checkpoints"))


def test_a_trial_whose_process_dies_goes_on_with_new_workers(node, ray_cluster, tmp_path):
    study, killed = tmp_path / "study", []

    def kill() -> None:
        wait_until(lambda: len(history(study, 0)) >= 2, 200)
        for process in processes("ImplicitFunc"):
            process.kill()
            killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    tune_study({**with_workers(node, epochs=8, early_stopping=None), "num_trials": 1}, output=study)
    killer.join()
    assert killed
    assert trials(study)[0]["status"] == "finished"
    assert [line["epoch"] for line in history(study, 0)] == list(range(1, 9)), "from its checkpoint, not anew"


def test_a_trial_whose_workers_fail_says_why(node, ray_cluster, tmp_path):
    base = {**with_workers(node)["base"], "optimizer": {"learning_rate": 1e30, "warmup_steps": 0}}
    space = {"model.dropout": {"kind": "choice", "values": [0.0, 0.2]}}
    with pytest.raises(UserError, match="every trial failed"):
        tune_study({**node, "base": base, "space": space, "num_trials": 1}, output=tmp_path / "study")
    assert trials(tmp_path / "study")[0]["reason"].startswith("FloatingPointError: the loss is nan at step ")


def test_workers_that_would_wait_for_each_other_are_refused(node, ray_cluster, tmp_path):
    with pytest.raises(UserError, match="max_concurrent: 3 takes 6, but Ray has 4 cores here"):
        tune_study({**with_workers(node), "max_concurrent": 3}, output=tmp_path / "study")
    assert not (tmp_path / "study").exists()
