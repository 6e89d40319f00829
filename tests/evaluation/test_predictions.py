"""Anybody's lists, judged as runs are."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raysys.data.batches import make_queries
from raysys.data.dataset import Dataset
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.baselines.popularity import PopularityScorer
from raysys.evaluation.evaluate import evaluate
from raysys.evaluation.predictions import evaluate_predictions
from raysys.evaluation.protocol import Estimate
from raysys.evaluation.ranking import ModelScorer, recommend

OVER_ALL = ("coverage", "gini", "popularity_lift")  # no means over users: they have no difference


def assert_equal(found, expected) -> None:
    """Compare two estimates; intervals are f32."""
    assert found.count == expected.count
    for side in ("mean", "low", "high"):
        assert getattr(found, side) == pytest.approx(getattr(expected, side), rel=1e-5, abs=1e-7)


@pytest.fixture
def write_lists(tmp_path, judge):
    """Write lists of a scorer, or given rows, as the parquet file that --predictions takes."""

    def of_rows(user_ids, ranks, items) -> object:
        path = tmp_path / "lists.parquet"
        pq.write_table(pa.table({"user_id": user_ids, "rank": ranks, "item_id": items}), path)
        return path

    def of_scorer(scorer, split=Split.TEST, depth=10, every=1):
        rows = judge.dataset.rows_with_targets(split)[::every]
        queries = make_queries(judge.reader.rows(rows), split, judge.reader.is_history, judge.max_length)
        with torch.inference_mode():
            found = recommend(scorer, queries, depth)
        owners, places = np.nonzero(found.items_BK.numpy())
        items = judge.dataset.vocabulary.decode(found.items_BK.numpy()[owners, places])
        order = np.random.default_rng(0).permutation(len(owners))  # rows may come in any order
        users = judge.reader.user_ids(rows).take(pa.array(owners))
        return of_rows(users.take(pa.array(order)), places[order] + 1, items.take(pa.array(order)))

    of_scorer.of_rows = of_rows
    return of_scorer


def run_of(judge, network):
    return network, judge.config, judge.max_length


@pytest.mark.parametrize("split", [Split.VALID, Split.TEST])
def test_a_models_own_lists_have_its_own_metrics_and_no_difference(judge, network, write_lists, split):
    path = write_lists(ModelScorer(network), split)
    found = evaluate_predictions(path, judge.dataset, split, run_of(judge, network))
    own = evaluate(judge, network, split)
    names = [name for name in own.metrics if name.startswith("next_item.")]
    assert len(names) == 20
    for name in names:
        assert_equal(found.metrics[name.replace("next_item.", "lists.")], own.metrics[name])
        popular = found.baselines["popularity"][name.replace("next_item.", "lists.")]
        assert_equal(popular, own.baselines["popularity"][name])
        if name.partition("@")[0].partition(".")[2] not in OVER_ALL:
            gap = found.metrics[name.replace("next_item.", "difference.")]
            assert (gap.mean, gap.low, gap.high) == (0, 0, 0)
            assert gap.count == own.metrics[name].count
    assert found.split == split.name.lower()
    assert found.num_users == own.num_users
    assert {part: {name.rpartition(".")[2] for name in metrics} for part, metrics in found.slices.items()} == {
        part: {name.rpartition(".")[2] for name in metrics} for part, metrics in own.slices.items()
    }
    assert re.search(r"(\d+) of \1 users with held-out events have a list", found.notes[0])


def test_the_lists_of_popularity_are_the_baseline(judge, network, write_lists):
    path = write_lists(PopularityScorer(judge.dataset.catalog.popularity))
    found = evaluate_predictions(path, judge.dataset, Split.TEST, run_of(judge, network))
    own = evaluate(judge, network, Split.TEST)
    for name in ("ndcg@10", "recall@3", "hit_rate@3", "mrr@10"):
        assert_equal(found.metrics[f"lists.{name}"], found.baselines["popularity"][f"lists.{name}"])
        gap = own.baselines["popularity"][f"next_item.{name}"].mean - own.metrics[f"next_item.{name}"].mean
        assert found.metrics[f"difference.{name}"].mean == pytest.approx(gap, abs=1e-9)
        assert found.metrics[f"difference.{name}"].low <= gap <= found.metrics[f"difference.{name}"].high


def test_users_without_a_list_score_nothing(judge, network, write_lists):
    num_users = len(judge.dataset.rows_with_targets(Split.TEST))
    whole = evaluate_predictions(write_lists(ModelScorer(network)), judge.dataset, Split.TEST, run_of(judge, network))
    half = evaluate_predictions(
        write_lists(ModelScorer(network), every=2), judge.dataset, Split.TEST, run_of(judge, network)
    )
    assert half.metrics["lists.recall@10"].count == whole.metrics["lists.recall@10"].count == num_users
    assert half.metrics["lists.recall@10"].mean < whole.metrics["lists.recall@10"].mean
    assert f"{-(-num_users // 2)} of {num_users} users" in half.notes[0]


def test_the_held_out_item_first_is_perfect_and_without_a_run_defaults_are_used(judge, user_lines, write_lists):
    rows = judge.dataset.rows_with_targets(Split.TEST)
    targets = [next(event["item"] for event in user_lines[row] if event["mark"] == Split.TEST) for row in rows]
    known = [(row, item) for row, item in zip(rows, targets, strict=True) if item >= 2]
    users = judge.reader.user_ids(np.array([row for row, _ in known]))
    items = judge.dataset.vocabulary.decode(np.array([item for _, item in known]))
    path = write_lists.of_rows(users, [1] * len(known), items)
    found = evaluate_predictions(path, judge.dataset, Split.TEST)
    share = len(known) / len(rows)
    for name in ("ndcg@5", "recall@20", "hit_rate@10", "mrr@20"):
        assert found.metrics[f"lists.{name}"].mean == pytest.approx(share)
    assert not any(name.startswith("difference.") for name in found.metrics)
    assert found.metrics["lists.coverage@5"].mean == len(set(targets) - {1}) / judge.dataset.manifest.num_items


def test_strangers_deep_ranks_and_unknown_items_do_no_harm(judge, network, write_lists):
    user = judge.reader.user_ids(judge.dataset.rows_with_targets(Split.TEST)[:1])[0].as_py()
    users = ["stranger"] * 2 + [user] * 40
    ranks = [7, 7, *range(1, 41)]
    path = write_lists.of_rows(users, ranks, [f"no item {place}" for place in range(42)])
    found = evaluate_predictions(path, judge.dataset, Split.TEST, run_of(judge, network))
    assert found.metrics["lists.recall@10"].mean == 0
    assert found.metrics["lists.coverage@10"].mean == 0
    assert found.notes[0].startswith("1 of ")


def test_numbers_as_ids_and_ranks_of_other_types_are_read(judge, write_lists):
    users = pa.array([1, 2], pa.int32())
    with pytest.raises(UserError, match="none of its users"):
        evaluate_predictions(write_lists.of_rows(users, [1, 1], [5, 6]), judge.dataset, Split.TEST)
    user = judge.reader.user_ids(judge.dataset.rows_with_targets(Split.TEST)[:1])[0].as_py()
    path = write_lists.of_rows(pa.array([user] * 2).dictionary_encode(), pa.array([2.0, 1.0]), [5, 6])
    assert evaluate_predictions(path, judge.dataset, Split.TEST).notes[0].startswith("1 of ")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"rank": [0, 1, 2]}, r"ranks are 1, 2, 3, ... within a user; one user has \[0, 1, 2\]"),
        ({"rank": [1, 3, 2], "user_id": ["U", "U", "V"]}, r"one user has \[1, 3\]"),
        ({"rank": [1, 2, 2]}, r"one user has \[1, 2, 2\]"),
        ({"rank": [1, 2, 4]}, r"one user has \[1, 2, 4\]"),
        ({"rank": [-1, 1, 2]}, r"one user has \[-1, 1, 2\]"),
        ({"rank": [1, None, 3]}, "rank: 1 rows have no value"),
        ({"rank": [1.0, 2.5, 3.0]}, "rank: cannot be read as int64"),
        ({"rank": ["first", "2", "3"]}, "rank: cannot be read as int64"),
        ({"item_id": ["a", "b", "a"]}, "a user has item 'a' twice"),
        ({"item_id": ["a", None, "b"]}, "item_id: 1 rows have no value"),
        ({"user_id": ["U", None, "U"]}, "user_id: 1 rows have no value"),
        ({"user_id": [["U"], ["U"], ["U"]]}, "user_id: cannot be read as string"),
        ({"user_id": ["x", "y", "z"]}, "none of its users has held-out events in"),
        ({"rank": None}, r"no column 'rank' \(it has: user_id, item_id\)"),
        ({"item_id": None}, "no column 'item_id'"),
    ],
)
def test_files_that_hold_no_lists_are_refused(judge, tmp_path, columns, expected):
    names = judge.reader.user_ids(judge.dataset.rows_with_targets(Split.TEST)[:2]).to_pylist()
    good = {"user_id": ["U"] * 3, "rank": [1, 2, 3], "item_id": ["a", "b", "c"]}
    chosen = {name: values for name, values in {**good, **columns}.items() if values is not None}
    if all(isinstance(user, str | None) for user in chosen.get("user_id", [])):
        chosen["user_id"] = [{"U": names[0], "V": names[1]}.get(user, user) for user in chosen["user_id"]]
    pq.write_table(pa.table(chosen), tmp_path / "lists.parquet")
    with pytest.raises(UserError, match=expected) as error:
        evaluate_predictions(tmp_path / "lists.parquet", judge.dataset, Split.TEST)
    assert "--predictions" in str(error.value)


def test_what_is_no_parquet_file_is_refused(judge, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        evaluate_predictions(tmp_path / "nothing.parquet", judge.dataset, Split.TEST)
    (tmp_path / "x.parquet").write_text("user_id,rank,item_id\n")
    with pytest.raises(UserError, match="not a parquet file"):
        evaluate_predictions(tmp_path / "x.parquet", judge.dataset, Split.TEST)
    pq.write_table(pa.table({"user_id": pa.array([], pa.string()), "rank": [], "item_id": []}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match="none of its users"):
        evaluate_predictions(tmp_path / "y.parquet", judge.dataset, Split.TEST)


def test_a_run_without_lists_cannot_be_compared_with(judge, network, make_network, write_lists):
    path = write_lists(ModelScorer(network))
    with pytest.raises(UserError, match="none of its tasks retrieves"):
        evaluate_predictions(path, judge.dataset, Split.TEST, run_of(judge, make_network("rating")))


def test_a_dataset_without_held_out_events_is_refused(judge, network, write_lists):
    class OnlyTraining(Dataset):
        def rows_with_targets(self, split):
            return np.zeros(0, np.int64)

    with pytest.raises(UserError, match="no user has test events"):
        evaluate_predictions(
            write_lists(ModelScorer(network)), OnlyTraining(judge.dataset.path, judge.dataset.manifest), Split.TEST
        )


@pytest.mark.cluster
def test_bulk_lists_of_a_run_have_its_own_test_metrics(tiny_run, tmp_path):
    from raysys.bulk.recommend import recommend_users

    path = tmp_path / "lists"
    config = tiny_run.config.evaluation
    dataset = Dataset.open(tiny_run.record.dataset)
    made = recommend_users(tiny_run, str(path), "test", max(config.k), users_per_part=100)
    assert made.num_users == len(dataset.rows_with_targets(Split.TEST))
    run = (tiny_run.network, config, tiny_run.config.model.max_length)
    found = evaluate_predictions(path, dataset, Split.TEST, run)
    reports = {report["split"]: report for report in tiny_run.reports}
    for name, own in reports["test"]["metrics"].items():
        if name.startswith("next_item."):
            theirs = found.metrics[name.replace("next_item.", "lists.")]
            assert_equal(theirs, Estimate(**own))
            if name.partition("@")[0].partition(".")[2] not in OVER_ALL:
                gap = found.metrics[name.replace("next_item.", "difference.")]
                assert (gap.mean, gap.low, gap.high) == (0, 0, 0)
