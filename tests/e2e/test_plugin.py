"""A folder outside the repository adds a task: it trains, is evaluated, and passes the contracts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
PLUGIN = '''
"""A task of somebody else: did the user like it?"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from raysys.component import FrozenConfig
from raysys.tasks import TASKS
from raysys.tasks.task import Task


class Liked(Task):
    """Logistic regression on the dot product of state and item."""

    source = "pairs"
    label = "rating"
    predicts = "probability"
    positive_from = 4.0

    class Config(FrozenConfig):
        """No settings."""

        kind: Literal["liked"] = "liked"

    def __init__(self, config, context):
        super().__init__(config, context)
        self.scale = nn.Linear(1, 1)

    def logits(self, encoded, targets):
        dots = (encoded.state_before(targets.anchor_BC) * encoded.items(targets.items_BC)).sum(-1, keepdim=True)
        return self.scale(dots).squeeze(-1)

    def known(self, view):
        return view.targets.mask_BC & view.targets.labels[self.label].isfinite()

    def count(self, view):
        return self.known(view).sum().float()

    def loss(self, encoded, view, logits):
        liked = (view.targets.labels[self.label] >= 4).float()
        errors = F.binary_cross_entropy_with_logits(logits[self.name], liked, reduction="none")
        return (errors * self.known(view)).sum()

    def predict(self, logits):
        return logits.sigmoid()


TASKS["liked"] = Liked
'''


PAGE = (ROOT / "docs" / "extending.md").read_text()
SHOWN = re.search(r"^```python\n# my_tasks.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL).group(1)


@pytest.fixture(params=[PLUGIN, SHOWN], ids=["from Task", "as the docs show"])
def plugin_folder(request, tmp_path) -> Path:
    (tmp_path / "my_tasks.py").write_text(request.param)
    return tmp_path


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_its_contract_tests_run(plugin_folder):
    done = _run(plugin_folder, "-m", "pytest", "-p", "my_tasks", "--pyargs", "raysys.contracts", "-k", "liked", "-v")
    assert done.returncode == 0, done.stdout
    assert "test_loss_is_a_finite_sum[liked] PASSED" in done.stdout
    assert "test_name_is_kind[TASKS-liked] PASSED" in done.stdout


def test_a_broken_plugin_fails_its_contract(tmp_path):
    broken = PLUGIN.replace("(errors * self.known(view)).sum()", "(errors * self.known(view)).mean()")
    assert broken != PLUGIN
    (tmp_path / "my_tasks.py").write_text(broken)
    done = _run(tmp_path, "-m", "pytest", "-p", "my_tasks", "--pyargs", "raysys.contracts", "-k", "liked and add_up")
    assert done.returncode == 1, "a mean where a sum is promised must be found"


def test_it_trains_by_name_from_yaml(plugin_folder, contract_dataset):
    config = f"project: plug\nroot: store\nplugins: [my_tasks]\ndataset: {contract_dataset.path}\n"
    config += "model: {width: 8, max_length: 8}\ntasks: {next_item: {}, liked: {}}\ntraining: {epochs: 1, threads: 1}\n"
    (plugin_folder / "train.yaml").write_text(config)
    done = _run(plugin_folder, "-m", "raysys", "train", "train.yaml", "-o", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert '"liked.auc"' in done.stdout
