"""Lists for many users: those of evaluation and of the run itself, in files that are complete or known to be not."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raysys.bulk.choice import choose_users
from raysys.bulk.part import PartWriter
from raysys.bulk.plan import Plan
from raysys.bulk.recommend import recommend_users
from raysys.data.batches import make_queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.pair_scores import task_scores
from raysys.evaluation.ranking import ModelScorer, recommend

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def dataset(tiny_run):
    return Dataset.open(tiny_run.record.dataset)


@pytest.fixture(scope="module")
def everybody(tiny_run, tmp_path_factory):
    """Lists of all users in five files."""
    path = tmp_path_factory.mktemp("bulk") / "all"
    return path, recommend_users(tiny_run, str(path), "all", 7, users_per_part=64)


def lists_of(path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in pq.read_table(path).to_pylist():
        found.setdefault(row["user_id"], []).append(row)
    return found


def test_a_directory_of_parts_reads_as_one_table(everybody, dataset):
    path, manifest = everybody
    table = pq.read_table(path)
    assert table.column_names == ["user_id", "rank", "item_id", "score", "scores.rating"]
    assert sorted(file.name for file in path.iterdir()) == [
        "_manifest.json",
        "_plan.json",
        *(f"part-{part:06d}.parquet" for part in range(5)),
    ]
    assert (manifest.num_users, manifest.parts, manifest.rows) == (300, 5, table.num_rows)
    assert json.loads((path / "_manifest.json").read_text()) == manifest.model_dump()
    ids = ShardReader(dataset).user_ids(np.arange(300)).to_pylist()
    first = pq.read_table(path / "part-000001.parquet")["user_id"].to_pylist()
    assert list(dict.fromkeys(first)) == ids[64:128], "a part holds its users in the order of the dataset"


def test_the_lists_are_those_of_the_run(everybody, tiny_run, dataset):
    reader = ShardReader(dataset)
    found = lists_of(everybody[0])
    for row in range(0, 300, 23):
        events = reader.rows(np.array([row]))
        history = tiny_run.vocabulary.decode(events.items).to_pylist()
        expected = tiny_run.recommend(history, 7)
        mine = found[reader.user_ids(np.array([row]))[0].as_py()]
        assert [item["item_id"] for item in mine] == [item.item_id for item in expected]
        assert [item["rank"] for item in mine] == [*range(1, len(mine) + 1)]
        np.testing.assert_allclose([item["score"] for item in mine], [one.score for one in expected], rtol=1e-4)


def test_the_lists_and_task_scores_are_those_of_evaluation(tiny_run, dataset, tmp_path):
    recommend_users(tiny_run, str(tmp_path / "lists"), "test", 5, users_per_part=50)
    reader, rows = ShardReader(dataset, columns=True), dataset.rows_with_targets(Split.TEST)
    queries = make_queries(reader.rows(rows), Split.TEST, reader.is_history, tiny_run.config.model.max_length)
    with torch.inference_mode():
        expected = recommend(ModelScorer(tiny_run.network), queries, 5)
        ratings_BK = task_scores(
            tiny_run.network,
            tiny_run.network.recommender(queries.history),
            queries.anchor_B,
            expected.items_BK,
            tiny_run.calibrators,
        )["rating"]
    found = lists_of(tmp_path / "lists")
    for place, user in enumerate(reader.user_ids(rows).to_pylist()):
        shown = expected.scores_BK[place] > -torch.inf
        items = tiny_run.vocabulary.decode(expected.items_BK[place][shown].numpy()).to_pylist()
        assert [row["item_id"] for row in found[user]] == items
        ratings = [row["scores.rating"] for row in found[user]]
        np.testing.assert_allclose(ratings, ratings_BK[place][shown].numpy(), rtol=1e-4, atol=1e-5)


def test_a_history_is_encoded_once_for_its_list_and_the_scores_of_tasks(everybody, tiny_run, dataset, encoded_users):
    written = pq.read_table(everybody[0] / "part-000000.parquet")
    plan = Plan.model_validate_json((everybody[0] / "_plan.json").read_text())
    again = PartWriter(plan, str(everybody[0]), tiny_run.path, dataset.path, None).lists(np.arange(64))
    assert sum(encoded_users) == 64
    assert "scores.rating" in again.column_names
    assert again == written


def test_any_size_of_parts_gives_the_same_lists(everybody, tiny_run, tmp_path):
    recommend_users(tiny_run, str(tmp_path / "one"), "all", 7, users_per_part=1000)
    one, five = pq.read_table(tmp_path / "one"), pq.read_table(everybody[0])
    for column in ("user_id", "rank", "item_id"):
        assert one[column].to_pylist() == five[column].to_pylist()
    np.testing.assert_allclose(one["score"].to_numpy(), five["score"].to_numpy(), rtol=1e-4, atol=1e-5)


def test_seen_items_are_left_out_or_kept(everybody, tiny_run, dataset, tmp_path):
    recommend_users(tiny_run, str(tmp_path / "kept"), "all", 7, exclude_seen=False)
    reader = ShardReader(dataset)
    rows = reader.rows(np.arange(300))
    names = reader.user_ids(np.arange(300)).to_pylist()
    had = {
        name: set(tiny_run.vocabulary.decode(rows.items[rows.offsets[at] : rows.offsets[at + 1]]).to_pylist())
        for at, name in enumerate(names)
    }
    repeated = {
        path: sum(row["item_id"] in had[user] for user, rows in lists_of(path).items() for row in rows)
        for path in (everybody[0], tmp_path / "kept")
    }
    assert repeated[everybody[0]] == 0
    assert repeated[tmp_path / "kept"] > 100


def test_only_the_items_of_a_file_are_recommended(tiny_run, everybody, tmp_path):
    ids = tiny_run.vocabulary.item_ids.to_pylist()
    allowed = ids[3:20:2]
    (tmp_path / "items.txt").write_text("\n".join([*allowed, "nothing", allowed[0]]) + "\n")
    made = recommend_users(tiny_run, str(tmp_path / "some"), "all", 60, items=str(tmp_path / "items.txt"))
    assert (made.num_items, made.unknown_items) == (len(allowed), 1)
    whole = tmp_path / "whole"
    recommend_users(tiny_run, str(whole), "all", 60)
    some, every = lists_of(tmp_path / "some"), lists_of(whole)
    for user, rows in every.items():
        expected = [row["item_id"] for row in rows if row["item_id"] in allowed]
        assert [row["item_id"] for row in some.get(user, [])] == expected


def test_users_of_a_file_that_the_dataset_does_not_have_are_counted(tiny_run, everybody, tmp_path, command):
    every = lists_of(everybody[0])
    wanted = [*list(every)[10:20], "stranger", "stranger", "another"]
    (tmp_path / "users.txt").write_text("\n".join(wanted))
    code, out, err = command(
        *("recommend", tiny_run.path, "--users", tmp_path / "users.txt", "--k", 7, "-o", tmp_path / "lists", "--json")
    )
    assert code == 0, err
    assert "2 users are not in the dataset and have no list" in err
    assert json.loads(out)["unknown_users"] == 2
    assert json.loads(out)["num_users"] == 10
    found = lists_of(tmp_path / "lists")
    assert {user: [row["item_id"] for row in rows] for user, rows in found.items()} == {
        user: [row["item_id"] for row in every[user]] for user in wanted[:10]
    }


def test_a_parquet_file_of_users_means_the_same_as_a_text_file(dataset, tmp_path):
    ids = [*ShardReader(dataset).user_ids(np.array([7, 3, 200])).to_pylist(), "stranger", None]
    pq.write_table(pa.table({"name": ids, "user_id": ids}), tmp_path / "users.parquet")
    asked = choose_users(str(tmp_path / "users.parquet"), dataset)
    assert (asked.rows_U.tolist(), asked.split, asked.unknown) == ([3, 7, 200], Split.NONE, 1)


def test_lists_go_to_any_place_that_a_uri_names(tiny_run, everybody, tmp_path):
    """`local` is a filesystem of fsspec."""
    recommend_users(tiny_run, f"local://{tmp_path}/deep/lists", "all", 7, users_per_part=64)
    for file in everybody[0].iterdir():
        assert (tmp_path / "deep" / "lists" / file.name).read_bytes() == file.read_bytes()


def test_a_complete_directory_is_left_as_it_is(tiny_run, everybody, monkeypatch):
    path, manifest = everybody
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    monkeypatch.setattr("raysys.cluster.connected", None)  # nothing is to be computed
    assert recommend_users(tiny_run, str(path), "all", 7, users_per_part=64) == manifest
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"k": 8}, "k: 7 there, 8 now"),
        ({"users": "test"}, "asked_before: none there, test now"),
        ({"exclude_seen": False}, "exclude_seen: True there, False now"),
        ({"users_per_part": 65}, "users_per_part: 64 there, 65 now"),
    ],
)
def test_other_arguments_on_the_same_directory_are_refused(changes, expected, tiny_run, everybody):
    arguments = {"users": "all", "k": 7, "users_per_part": 64, **changes}
    with pytest.raises(UserError, match=f"other arguments .*{expected}"):
        recommend_users(tiny_run, str(everybody[0]), **arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"k": 0}, "--k 0"),
        ({"users_per_part": 0}, "--users-per-part 0"),
        ({"users": "nobody.txt"}, "--users nobody.txt: .*no such file"),
        ({"items": "nothing.txt"}, "--items nothing.txt: .*no such file"),
        ({"users": "strangers.txt"}, "none of its 2 ids is a user"),
        ({"items": "strangers.txt"}, "training knows none of its 2 ids"),
        ({"users": "broken.parquet"}, "not a parquet file with a column user_id"),
        ({"output": "strangers.txt"}, "is a file"),
        ({"output": "."}, "holds other files"),
    ],
)
def test_bad_arguments_write_nothing(arguments, expected, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strangers.txt").write_text("x\ny\n")
    (tmp_path / "broken.parquet").write_text("x")
    with pytest.raises(UserError, match=expected):
        recommend_users(tiny_run, **{"output": "lists", **arguments})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken.parquet", "strangers.txt"]
