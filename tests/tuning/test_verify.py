"""What happens after a search on a share of the users, when the best trials are trained on all of them."""

import json
from pathlib import Path

import pytest

from raysys.configfile import read_yaml
from tuning.command import tune_study

pytestmark = pytest.mark.cluster


def test_a_trial_that_fails_on_all_users_does_not_win(tune_node, base_node, ray_cluster, tmp_path, command):
    """The better of two trials is verified from a checkpoint that a disk has spoiled: the base wins."""
    base = {**base_node, "optimizer": {"learning_rate": 1e-6, "warmup_steps": 0}}
    space = {"optimizer.learning_rate": {"kind": "choice", "values": [1e-6, 0.02]}}
    node = {**tune_node, "base": base, "space": space, "num_trials": 2, "searcher": {"kind": "grid"}}
    study = tmp_path / "study"
    best = tune_study({**node, "dataset_fraction": 0.5, "verify": 1, "scheduler": {"kind": "none"}}, output=study)
    assert read_yaml(best)["optimizer"]["learning_rate"] == 0.02
    assert [trial["verified"] is not None for trial in trials(study)] == [True, True]

    for weights in (study / "verified" / "001" / "checkpoints").glob("*/model.safetensors"):
        weights.write_bytes(b"spoiled")
    best.unlink()
    code, _, err = command("tune", "--resume", study)
    assert code == 0, err
    assert "verify trial 1 on all users: failed: " in err
    assert read_yaml(best)["optimizer"]["learning_rate"] == 1e-6
    assert [trial["verified"] is not None for trial in trials(study)] == [True, False]
    assert json.loads((study / "verified" / "001" / "error.json").read_text())["reason"].startswith("SafetensorError")


def trials(study: Path) -> list[dict]:
    """The trials by number."""
    return sorted(json.loads((study / "leaderboard.json").read_text())["trials"], key=lambda trial: trial["number"])
