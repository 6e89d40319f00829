import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import raysys
from raysys.errors import UserError
from raysys.evaluation.outcomes import Kept
from raysys.runs import Run
from raysys.training.fit import resume
from raysys.training.loop import read_history

LOSSES = ("loss", "loss/next_item", "loss/rating")


def _config(dataset, store, **nodes):
    node = {
        "project": "tiny",
        "root": str(store),
        "dataset": str(dataset.path),
        "model": {
            "width": 16,
            "max_length": 16,
            "dropout": 0.0,
            "backbone": {"num_blocks": 1},
            "sharing": {"dropout": 0.0},
        },
        "tasks": {"next_item": {}, "rating": {"dropout": 0.0}},
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 5},
        "training": {"epochs": 5, "batch_size": 30, "threads": 1},
        "evaluation": {"k": [10], "resamples": 20},
    }
    return {**node, **nodes}


@pytest.mark.cluster
def test_a_run_directory_holds_what_a_run_is(tiny_run, tiny_dataset):
    names = {path.name for path in tiny_run.path.iterdir()}
    needed = {"run.json", "config.yaml", "model.safetensors", "vocabulary.arrow", "catalog.arrow", "history.jsonl"}
    assert needed <= names
    assert not {name for name in names if name.endswith((".pkl", ".pt", ".bin"))}
    assert {path.name for path in (tiny_run.path / "outcomes").iterdir()} == {"valid.parquet", "test.parquet"}
    for split, kept in ((report["split"], report["metrics"]) for report in tiny_run.reports):
        values = Kept.read(tiny_run.path, split).per_user("next_item.ndcg@10")
        assert kept["next_item.ndcg@10"]["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert tiny_run.record.dataset_fingerprint == tiny_dataset.manifest.fingerprint
    assert tiny_run.record.test["next_item.ndcg@10"] > 2 * _popularity(tiny_run)


def _popularity(run):
    return run.reports[-1]["baselines"]["popularity"]["next_item.ndcg@10"]["mean"]


@pytest.mark.cluster
def test_two_workers_train_the_same_model_as_one(tiny_dataset, store):
    """300 users, batches of 30: ten steps an epoch, fifty in all; the losses are means over the global batch."""
    one = raysys.train(_config(tiny_dataset, store))
    training = {"epochs": 5, "batch_size": 30, "threads": 1, "num_workers": 2}
    two = raysys.train(_config(tiny_dataset, store, training=training))
    assert one.record.steps == two.record.steps == 50
    for first, second in zip(read_history(one.path), read_history(two.path), strict=True):
        for name in LOSSES:
            assert first[name] == pytest.approx(second[name], rel=1e-5), name
    assert one.record.test == pytest.approx(two.record.test, abs=0.02)


@pytest.mark.cluster
def test_a_killed_worker_is_replaced_and_the_run_ends_as_if_nothing_had_happened(tiny_dataset, store, tmp_path):
    training = {"epochs": 12, "batch_size": 30, "threads": 1, "num_workers": 2, "checkpoint_every": 3}
    expected = raysys.train(_config(tiny_dataset, store, training={**training, "num_workers": 1}))
    killer = subprocess.Popen([sys.executable, __file__, str(tmp_path / "run"), str(os.getpid())])
    survived = raysys.train(_config(tiny_dataset, store, training=training), output=str(tmp_path / "run"))
    assert killer.wait(timeout=60) == 0, "the killer found no worker to kill"
    for first, second in zip(read_history(expected.path), read_history(survived.path), strict=True):
        for name in LOSSES:
            assert first[name] == pytest.approx(second[name], rel=1e-4)


@pytest.mark.process
def test_a_killed_process_resumes_to_the_same_end(contract_dataset, tmp_path):
    training = {"epochs": 6, "batch_size": 16, "threads": 1, "checkpoint_every": 2}
    node = _config(contract_dataset, tmp_path, training=training)
    expected = raysys.train(node, output=str(tmp_path / "whole"))
    code = f"import raysys; raysys.train({node!r}, output={str(tmp_path / 'killed')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    _wait_for(lambda: len(list((tmp_path / "killed").glob("checkpoints/step-*"))) > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(UserError, match="unfinished run"):
        Run.open(tmp_path / "killed")
    finished = resume(tmp_path / "killed")
    assert finished.record.test == expected.record.test
    first, second = ((run.path / "model.safetensors").read_bytes() for run in (expected, finished))
    assert first == second


@pytest.mark.process
def test_fine_tuning_inherits_items_by_id_and_the_parents_model(contract_dataset, tmp_path):
    parent = raysys.train(_config(contract_dataset, tmp_path, tasks={"next_item": {}}), output=str(tmp_path / "parent"))
    node = _config(contract_dataset, tmp_path, start_from=str(parent.path))
    del node["model"]
    node["training"] = {"epochs": 1, "batch_size": 64, "threads": 1}
    child = raysys.train(node, output=str(tmp_path / "child"))
    assert child.config.model == parent.config.model
    assert child.record.parent == str(parent.path)
    first, parent_last = read_history(child.path)[0], read_history(parent.path)[-1]
    assert first["loss/next_item"] < 1.1 * parent_last["loss/next_item"], "it did not start from the parent's weights"
    node["model"] = {"width": 8}
    with pytest.raises(UserError, match="leave `model:` out"):
        raysys.train(node, output=str(tmp_path / "other"))


def _wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def _kill_a_worker(directory: Path, driver: int) -> None:
    """Wait until the run has checkpoints, then kill one of its Ray Train workers."""
    _wait_for(lambda: len(list(directory.glob("checkpoints/step-*"))) > 0)
    workers = [
        process
        for process in psutil.Process(driver).children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    workers[-1].kill()
    print(json.dumps({"killed": workers[-1].pid}))


if __name__ == "__main__":
    _kill_a_worker(Path(sys.argv[1]), int(sys.argv[2]))
