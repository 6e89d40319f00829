"""A search on a simulated cluster of two nodes, of which one dies."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tuning.plan import read_plan
from tuning.trial import TrialJob, run_trial

pytestmark = [pytest.mark.cluster, pytest.mark.process, pytest.mark.timeout(600)]
EPOCHS = 10


@pytest.fixture
def simulated(monkeypatch):
    """A head without CPUs and two nodes of one each."""
    from ray.cluster_utils import Cluster

    short = tempfile.mkdtemp(prefix="rs", dir="/tmp")  # Ray's socket paths must stay short
    (Path(short) / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", short)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster, nodes
    cluster.shutdown()
    shutil.rmtree(short, ignore_errors=True)


def history(study: Path, number: int) -> list[dict]:
    path = study / "trials" / f"{number:03d}" / "history.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines()]


def test_the_trial_of_a_lost_node_goes_on_on_the_other(simulated, tune_node, base_node, tmp_path):
    cluster, nodes = simulated
    base = {**base_node, "training": {"epochs": EPOCHS, "batch_size": 4, "early_stopping": None}}
    space = {"optimizer.learning_rate": {"kind": "float", "low": 0.005, "high": 0.02}}
    node = {**tune_node, "base": base, "space": space, "searcher": {"kind": "random"}, "scheduler": {"kind": "none"}}
    file, study = tmp_path / "tune.yaml", tmp_path / "study"
    file.write_text(yaml.safe_dump({**node, "num_trials": 2, "max_concurrent": 2}))
    command = [sys.executable, "-m", "raysys", "tune", str(file), "-o", str(study)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    search = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 200
    while not all(2 <= len(history(study, number)) <= EPOCHS - 3 for number in (0, 1)):
        assert search.poll() is None, search.communicate()
        assert time.monotonic() < end, "no two trials were seen in their midst"
        time.sleep(0.01)
    cluster.remove_node(nodes[1], allow_graceful=False)
    _, err = search.communicate(timeout=200)
    assert search.returncode == 0, err.decode()

    found = json.loads((study / "leaderboard.json").read_text())["trials"]
    assert {trial["number"] for trial in found} == {0, 1}
    assert {trial["status"] for trial in found} == {"finished"}
    plan = read_plan(node)
    job = TrialJob(plan.base, plan.metric, plan.objectives.metrics, str(tmp_path / "alone"))
    for trial in found:
        told: list[dict] = []
        run_trial(job, trial["number"], trial["values"], told.append)
        assert trial["objectives"] == told[-1]["objectives"]
        once = [line["epoch"] for line in history(study, trial["number"])]
        assert once == list(range(1, EPOCHS + 1)), "from its checkpoint, not anew"
