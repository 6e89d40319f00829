"""Outcomes that survive being written, and two runs compared over the users that both have."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.schema import PAD, Split
from raysys.errors import UserError
from raysys.evaluation.compare import compare
from raysys.evaluation.evaluate import examine
from raysys.evaluation.outcomes import FOLDER, Kept, Outcomes, users_of, write_outcomes
from raysys.evaluation.pointwise import Predictions, pointwise_metrics
from raysys.evaluation.protocol import EvaluationConfig

CONFIG = EvaluationConfig(resamples=1000)


def outcomes(values: np.ndarray, users: np.ndarray | None = None, noise: float = 0.5, task="next_item") -> Outcomes:
    """Return outcomes whose users have these values, and labels predicted with some noise."""
    users = np.arange(len(values)) if users is None else users
    generator = np.random.default_rng(9)
    owners = np.repeat(users, 3)
    labels = generator.integers(1, 6, len(owners)).astype(np.float32)
    predicted = labels + noise * generator.normal(size=len(owners)).astype(np.float32)
    lists = users[:, None] % 7 + np.arange(2, 6)
    metrics = {f"{task}.ndcg@10": values, f"{task}.novelty@10": np.where(users % 5 == 0, np.nan, values)}
    predictions = {"rating": Predictions(predicted, labels, owners, 4.0)}
    return Outcomes(users, lists, users % 4, users * 0.5, users, users, metrics, predictions)


@pytest.fixture
def keep(tmp_path):
    """Write outcomes as a run does, and read them again."""

    def write(found: Outcomes, name: str = "run", prefix: str = "u") -> Kept:
        users = users_of(found)
        ids = pa.array([f"{prefix}{user}" for user in users])
        write_outcomes(found, ids, users, tmp_path / name / FOLDER / "test.parquet")
        return Kept.read(tmp_path / name, "test")

    return write


VALUES = np.random.default_rng(3).random(400)


# Files


def test_outcomes_survive_being_written(judge, network, tmp_path):
    found = examine(judge, network, Split.TEST).outcomes
    users = users_of(found)
    write_outcomes(found, judge.reader.user_ids(users), users, tmp_path / FOLDER / "test.parquet")
    kept = Kept.read(tmp_path, "test")
    assert kept.table["row"].to_pylist() == users.tolist()
    assert kept.table["user_id"].to_pylist() == judge.reader.user_ids(users).to_pylist()
    assert kept.table["history"].to_pylist() == found.known_U.tolist()
    np.testing.assert_array_equal(kept.lists(), found.items_UK)
    assert set(kept.metrics) == set(found.per_user)
    assert {name.partition("@")[0] for name in kept.metrics} >= {"next_item.ndcg", "next_item.novelty"}
    for name in kept.metrics:
        np.testing.assert_allclose(kept.per_user(name), found.per_user[name], rtol=1e-6)
    read, expected = kept.predictions(np.arange(len(users)))["rating"], found.predictions["rating"]
    assert read.positive_from == expected.positive_from
    assert pointwise_metrics(read) == pytest.approx(pointwise_metrics(expected), rel=1e-6)
    assert sorted(users[read.users_N]) == sorted(expected.users_N)


def test_probabilities_keep_what_they_are_and_what_they_were(keep):
    found = outcomes(VALUES[:3])
    labels = np.array([1.0, 0.0, 1.0])
    clicks = Predictions(np.array([0.5, 0.25, 0.75]), labels, np.array([2, 0, 2]), 1.0, "probability", labels / 2)
    read = keep(replace(found, predictions={"click": clicks})).predictions(np.arange(3))["click"]
    assert (read.predicts, read.positive_from) == ("probability", 1.0)
    assert read.predicted_N.tolist() == [0.25, 0.5, 0.75]
    assert read.raw_N.tolist() == [0.0, 0.5, 0.5]
    assert pointwise_metrics(read) == pytest.approx(pointwise_metrics(clicks))


def test_outcomes_of_another_raysys_are_told(keep):
    table = keep(outcomes(VALUES[:3])).table
    facts = {key: value for key, value in table.schema.metadata.items() if not key.endswith(b".predicts")}
    with pytest.raises(UserError, match="outcomes of rating: not as this raysys writes them"):
        Kept(table.replace_schema_metadata(facts)).predictions(np.arange(3))


def test_users_without_a_list_or_without_labels_keep_their_place(keep):
    found = outcomes(VALUES[:4])
    labels = Predictions(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 4.0]), np.array([6, 2, 6]), None)
    lists = np.array([[2, 3, PAD], [PAD] * 3, [4, 5, 6], [2, PAD, PAD]])
    kept = keep(Outcomes(*[*vars(found).values()][:1], lists, *[*vars(found).values()][2:7], {"stars": labels}))
    assert kept.table["row"].to_pylist() == [0, 1, 2, 3, 6]
    assert kept.table["items"].to_pylist() == [[2, 3], [], [4, 5, 6], [2], None]
    np.testing.assert_array_equal(kept.lists(), [*lists, [PAD] * 3])
    assert kept.table["stars.label"].to_pylist() == [[], [], [5.0], [], [1.0, 4.0]]
    assert math.isnan(kept.per_user("next_item.ndcg@10")[4])
    read = kept.predictions(np.array([4, 2]))["stars"]
    assert (read.users_N.tolist(), read.labels_N.tolist(), read.positive_from) == ([0, 0, 1], [1, 4, 5], None)


def test_a_run_without_outcomes_says_what_it_has(keep, tmp_path):
    keep(outcomes(VALUES))
    with pytest.raises(UserError, match=r"no outcomes of the valid split \(it has: test\)"):
        Kept.read(tmp_path / "run", "valid")


def test_files_are_small(keep, tmp_path):
    keep(outcomes(np.zeros(400)))
    (path,) = (tmp_path / "run" / FOLDER).iterdir()
    assert path.stat().st_size < 400 * 40
    assert pq.read_schema(path).field("next_item.ndcg@10").type == pa.float32()


# Comparisons


def test_a_run_does_not_differ_from_itself(keep):
    kept = keep(outcomes(VALUES))
    found = compare(kept, kept, "test", True, CONFIG)
    assert {row.metric for row in found.differences} == {
        *("next_item.ndcg@10", "next_item.novelty@10"),
        *(f"rating.{name}" for name in ("rmse", "mae", "auc", "gauc", "xauc")),
    }
    for row in found.differences:
        assert (row.difference, row.low, row.high, row.share_above_zero) == (0, 0, 0, 0.5)
    assert (found.num_users, found.num_users_each) == (400, (400, 400))


def test_a_planted_difference_is_found_and_noise_is_not(keep):
    generator = np.random.default_rng(4)
    base = keep(outcomes(VALUES), "base")
    better = keep(outcomes(VALUES + 0.02 + 0.1 * generator.normal(size=400), noise=0.4), "better")
    shuffled = keep(outcomes(VALUES + 0.1 * generator.normal(size=400)), "shuffled")
    found = {row.metric: row for row in compare(base, better, "test", True, CONFIG).differences}
    ndcg = found["next_item.ndcg@10"]
    assert 0 < ndcg.low < ndcg.difference < ndcg.high < 0.05
    assert ndcg.share_above_zero > 0.99
    assert ndcg.second - ndcg.first == pytest.approx(ndcg.difference, abs=1e-9)
    assert found["rating.rmse"].high < 0
    assert found["rating.rmse"].share_above_zero == 0
    assert found["rating.auc"].low > 0
    back = {row.metric: row for row in compare(better, base, "test", True, CONFIG).differences}["next_item.ndcg@10"]
    assert (back.difference, back.low, back.high) == pytest.approx((-ndcg.difference, -ndcg.high, -ndcg.low), rel=1e-4)
    none = {row.metric: row for row in compare(base, shuffled, "test", True, CONFIG).differences}["next_item.ndcg@10"]
    assert none.low < 0 < none.high


def test_the_interval_is_paired(keep):
    """The runs' own means are far less certain than their difference."""
    first, second = keep(outcomes(VALUES), "first"), keep(outcomes(VALUES + 0.01), "second")
    row = compare(first, second, "test", True, CONFIG).differences[0]
    assert row.high - row.low < 1e-5 < 0.02 < 4 * VALUES.std() / math.sqrt(400)
    assert row.difference == pytest.approx(0.01, abs=1e-6)


def test_only_users_of_both_runs_count(keep):
    first = keep(outcomes(VALUES[:300]), "first")
    second = keep(outcomes(VALUES[200:], np.arange(200, 400)), "second")
    found = compare(first, second, "test", True, CONFIG)
    assert (found.num_users, found.num_users_each) == (100, (300, 200))
    assert found.differences[0].first == pytest.approx(VALUES[200:300].mean(), abs=1e-6)
    assert found.differences[0].difference == 0
    novelty = next(row for row in found.differences if "novelty" in row.metric)
    assert novelty.num_users == 80, "users without a value are left out of that metric"


def test_different_datasets_are_matched_by_user_id_and_it_is_said(keep):
    first = keep(outcomes(VALUES), "first")
    moved = outcomes(VALUES[::-1].copy() + 0.5)
    users = np.arange(400)
    second = keep(moved, "second")
    flipped = pa.array([f"u{399 - user}" for user in users])
    second = Kept(second.table.set_column(1, "user_id", flipped))
    found = compare(first, second, "test", False, CONFIG)
    assert found.num_users == 400
    assert "different datasets" in found.pairing
    assert found.differences[0].difference == pytest.approx(0.5, abs=1e-6)
    assert found.differences[0].high - found.differences[0].low < 1e-5, "each user is compared with itself"
    with pytest.raises(UserError, match="different datasets, which share no user id"):
        compare(first, keep(outcomes(VALUES), "other", prefix="v"), "test", False, CONFIG)


def test_lists_of_different_tasks_are_compared_and_runs_without_a_shared_metric_refused(keep):
    first, second = keep(outcomes(VALUES), "first"), keep(outcomes(VALUES, task="masked_item"), "second")
    assert compare(first, second, "test", True, CONFIG).differences[0].metric == "ndcg@10"
    bare = Kept(first.table.select(["row", "user_id"]).replace_schema_metadata(None))
    with pytest.raises(UserError, match="no metric in common"):
        compare(bare, second, "test", True, CONFIG)


def test_a_comparison_is_plain_values(keep):
    kept = keep(outcomes(VALUES))
    node = json.loads(json.dumps(compare(kept, kept, "test", True, CONFIG).to_json()))
    assert set(node) == {"split", "num_users", "num_users_each", "pairing", "differences"}
    assert set(node["differences"][0]) == {
        *("metric", "first", "second", "difference", "low", "high", "share_above_zero", "num_users")
    }


@pytest.mark.cluster
def test_the_command_compares_runs(tiny_run, command):
    code, out, err = command("runs", "compare", tiny_run.path, tiny_run.path, "--json", "--split", "valid")
    assert code == 0, err
    node = json.loads(out)
    assert (node["first"], node["split"]) == (tiny_run.record.run_id, "valid")
    assert {row["difference"] for row in node["differences"]} == {0}
    code, out, err = command("runs", "compare", tiny_run.path, tiny_run.path)
    assert code == 0, err
    assert "users in common" in out
    code, out, err = command("runs", "compare", tiny_run.path, tiny_run.path, "--split", "train")
    assert code != 0
    assert "valid or test" in err


@pytest.mark.cluster
def test_runs_of_two_projects_are_not_compared(tiny_run, command, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_run.path, other)
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**record, "project": "shoes", "dataset_fingerprint": "else"}))
    code, _, err = command("runs", "compare", tiny_run.path, other)
    assert code == 2
    assert "shoes" in err
    assert "tiny" in err
