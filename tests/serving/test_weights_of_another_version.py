"""Runs whose weights have other names than this version gives them are refused in words."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from raysys.errors import UserError
from raysys.runs import Run

pytestmark = pytest.mark.thorough


def test_weights_of_another_version_are_refused(tiny_run, tmp_path):
    path = shutil.copytree(tiny_run.path, tmp_path / "old")
    weights = load_file(path / "model.safetensors")
    weights["tasks.rating.tower.3.weight"] = weights.pop("tasks.rating.tower.2.weight")
    save_file(weights, path / "model.safetensors")
    with pytest.raises(UserError, match=r"another version of raysys \(tasks.rating.tower.2.weight") as caught:
        Run.open(path).network  # noqa: B018
    assert str(path) in str(caught.value)
