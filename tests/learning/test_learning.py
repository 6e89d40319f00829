"""What a trained model must know, on logs whose best answer is known."""

import numpy as np
import pytest

from raysys.config import RunConfig
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.schema import Split
from raysys.evaluation.evaluate import evaluate
from raysys.training.loop import TrainingLoop
from raysys.training.start import build_network

METRIC = "next_item.ndcg@10"


def _report(folder, log, **nodes):
    """Ingest a generated log, train on it with the library's own loop and evaluate on the test split."""
    node = {"project": "learning", "format": "synthetic", "split": {"kind": "leave_one_out"}, **log}
    dataset = ingest(build(IngestConfig, node, "learning"), folder / "dataset", each=in_process)
    run = {
        "project": "learning",
        "dataset": str(dataset.path),
        "model": {"width": 32, "max_length": 16, "dropout": 0.1, "backbone": {"num_blocks": 1}},
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 20},
        "training": {"epochs": 12, "batch_size": 64, "threads": 1, "early_stopping": {"patience": 3}},
        "evaluation": {"k": [1, 10], "resamples": 500, "exclude_seen": False},
    }
    config = build(RunConfig, {**run, **nodes}, "learning")
    (folder / "run").mkdir()
    loop = TrainingLoop(config, dataset, build_network(config, dataset), folder / "run", show=False)
    return evaluate(loop.judge, loop.run().network, Split.TEST)


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", [{}, {"kind": "sgd", "learning_rate": 1.0}], ids=["adamw", "sgd"])
def test_planted_order_is_learned(tmp_path, optimizer):
    """With chance 0.8 the planted successor comes next: nobody can hit more of them at rank 1 than about that."""
    log = {"num_users": 800, "num_items": 80, "num_tastes": 4, "events_per_user": 12, "order": 0.8}
    report = _report(tmp_path, log, optimizer={"warmup_steps": 20, "learning_rate": 0.01, **optimizer})
    popularity = report.baselines["popularity"]
    assert report.metrics[METRIC].mean > 3 * popularity[METRIC].mean
    assert 0.7 < report.metrics["next_item.hit_rate@1"].mean < 0.9


@pytest.mark.thorough
def test_from_noise_nothing_is_learned_but_popularity(tmp_path):
    """Every event is an independent draw from one distribution: popularity is the best there is."""
    log = {"num_users": 800, "num_items": 80, "num_tastes": 1, "events_per_user": 12, "order": 0.0}
    report = _report(tmp_path, log)
    found, best = report.metrics[METRIC], report.baselines["popularity"][METRIC]
    assert found.low < best.high
    assert np.isfinite(found.mean)
