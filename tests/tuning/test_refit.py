"""The winner trained on everything before the test period."""

import json
from pathlib import Path

import numpy as np
import pytest

import raysys
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.runs import aliases


def test_with_validation_its_events_are_training(contract_dataset):
    both = contract_dataset.with_validation()
    plain, merged = contract_dataset.rows, both.rows
    for name in ("events", "tokens"):
        sums = plain[f"train_{name}"].to_numpy() + plain[f"valid_{name}"].to_numpy()
        assert np.array_equal(merged[f"train_{name}"].to_numpy(), sums)
        assert not merged[f"valid_{name}"].to_numpy().any()
        assert merged[f"test_{name}"].equals(plain[f"test_{name}"])
    everybody = np.arange(contract_dataset.manifest.num_users)
    before, after = (ShardReader(dataset).rows(everybody) for dataset in (contract_dataset, both))
    assert (before.marks == Split.VALID).any()
    assert np.array_equal(after.marks, np.where(before.marks == Split.VALID, Split.TRAIN, before.marks))
    assert not len(both.rows_with_targets(Split.VALID))


@pytest.mark.cluster
def test_the_winner_is_trained_on_both_tested_and_named_the_candidate(
    tune_node, base_node, ray_cluster, tmp_path, command
):
    root = tmp_path / "store"
    base = {**base_node, "root": str(root), "training": {"epochs": 4, "batch_size": 32}}
    (tmp_path / "tune.yaml").write_text(json.dumps({**tune_node, "base": base, "num_trials": 2}))
    code, out, err = command("tune", tmp_path / "tune.yaml", "--refit", "--json")
    assert code == 0, err
    told = json.loads(out)
    run = raysys.load("contracts@candidate", str(root))
    assert run.path == Path(told["run"])
    assert aliases(str(root), "contracts")["candidate"]
    best = told["trials"][0]
    assert run.config.training.include_validation
    assert run.record.epochs == best["best_epoch"]
    assert run.config.optimizer.learning_rate == best["values"]["optimizer.learning_rate"]
    assert [report["split"] for report in run.reports] == ["test"]
    assert run.record.valid == {}
    assert run.record.test["next_item.ndcg@10"] > 0
    code, out, err = command("evaluate", run.path, "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"]["next_item.ndcg@10"]["mean"] == run.record.test["next_item.ndcg@10"]
