"""The catalog: joined to the vocabulary, categories numbered by training alone; the same for users lane by lane."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.data.catalog import (
    Catalog,
    build_catalog,
    category_values,
    encode_users,
    merge_moments,
    merge_values,
    moments,
    vocabularies,
)

ITEMS = pa.table({"item_id": ["b", "x", "a"], "first_time": [1, 2, 3], "count": [5, 0, 2]})
TAGS = pa.list_(pa.string())


def items_of(names: list[str]) -> pa.Table:
    return pa.table(
        {"item_id": pa.array(names, pa.string()), "first_time": range(len(names)), "count": [1] * len(names)}
    )


def test_the_catalog_is_in_vocabulary_order_with_popularity():
    catalog = build_catalog(ITEMS, pa.table({"id": ["a", "b", "c"], "title": ["A", "B", "C"]}))
    assert catalog.table["item_id"].to_pylist() == ["b", "x", "a"]
    assert catalog.table["title"].to_pylist() == ["B", None, "A"]
    assert catalog.popularity.tolist() == [0, 0, 5, 0, 2]
    assert catalog.popularity.dtype == np.float32
    assert catalog.titles(np.array([[4, 2], [3, 3]])) == ["A", "B", None, None]


def test_the_join_is_what_pandas_merges():
    generator = np.random.default_rng(0)
    names = [f"i{i}" for i in generator.permutation(200)]
    train = pa.table({"item_id": names[:150], "first_time": range(150), "count": generator.integers(0, 9, 150)})
    frame = pd.DataFrame({"id": names[50:], "text.about": [f"title {n}" for n in names[50:]], "category.brand": "x"})
    shuffled = frame.sample(frac=1, random_state=0)
    found = build_catalog(train, pa.table({name: shuffled[name].tolist() for name in frame})).table
    expected = train.to_pandas()[["item_id", "count"]].merge(frame, left_on="item_id", right_on="id", how="left")
    texts = expected["text.about"].astype(object).where(expected["text.about"].notna(), None).tolist()
    assert found["text.about"].to_pylist() == texts
    assert found["category.brand"].null_count == 50
    assert found["popularity"].to_pylist() == expected["count"].tolist()


def test_every_kind_of_feature_is_kept_and_loads_as_it_was(tmp_path):
    details = pa.table(
        {
            "id": ["a", "b"],
            "text.about": ["of a", None],
            "category.brand": ["Z", "Y"],
            "category.tags": pa.array([["q", "p"], []], TAGS),
            "number.price": pa.array([2.5, None], pa.float32()),
            "vector.image": pa.array([[1, 2], None], pa.list_(pa.float32(), 2)),
        }
    )
    catalog = build_catalog(ITEMS, details)
    assert catalog.table.drop_columns(["popularity", "title"]).to_pylist() == [
        {
            "item_id": "b",
            "text.about": None,
            "category.brand": "Y",
            "category.tags": [],
            "number.price": None,
            "vector.image": None,
        },
        {"item_id": "x"} | dict.fromkeys(details.column_names[1:]),
        {
            "item_id": "a",
            "text.about": "of a",
            "category.brand": "Z",
            "category.tags": ["q", "p"],
            "number.price": 2.5,
            "vector.image": [1, 2],
        },
    ]
    word = pa.dictionary(pa.int32(), pa.string())
    kinds = dict(zip(catalog.table.column_names, catalog.table.schema.types, strict=True))
    assert (kinds["category.brand"], kinds["category.tags"]) == (word, pa.list_(word))
    assert kinds["vector.image"] == pa.list_(pa.float32(), 2)
    catalog.save(tmp_path / "c.arrow")
    loaded = Catalog.load(tmp_path / "c.arrow")
    assert loaded.table.equals(catalog.table)
    assert vocabularies(loaded.table)["category.tags"].to_pylist() == ["p", "q"]


def test_without_details_titles_are_unknown(tmp_path):
    for given_details in (None, pa.table({"id": ["a"], "category.brand": ["B"]})):
        catalog = build_catalog(ITEMS, given_details)
        assert catalog.titles(np.array([2, 3, 4])) == [None, None, None]
        catalog.save(tmp_path / "c.arrow")
        assert Catalog.load(tmp_path / "c.arrow").table.equals(catalog.table)


def test_values_are_numbered_by_the_training_time_of_their_first_item_whatever_the_order_of_rows():
    rows = [("x", "late"), ("never trained", "unseen"), ("a", "early"), ("b", "early"), ("b2", "also"), ("a2", "late")]
    items = pa.table({"item_id": ["b", "b2", "x", "a", "a2"], "first_time": [1, 1, 2, 3, 4], "count": [1] * 5})
    for order in (rows, rows[::-1]):
        details = pa.table({"id": [row[0] for row in order], "category.k": [row[1] for row in order]})
        catalog = build_catalog(items, details)
        assert vocabularies(catalog.table)["category.k"].to_pylist() == ["also", "early", "late"]
        assert catalog.table["category.k"].to_pylist() == ["early", "also", "late", "early", "late"]


WORDS = st.lists(st.sampled_from("pqrs"), max_size=3)


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.none() | WORDS), max_size=9), st.permutations("abcdefghi"))
def test_lists_of_categories_are_the_texts_they_were(rows, trained):
    trained = trained[:5]
    details = pa.table(
        {"id": pa.array([r[0] for r in rows], pa.string()), "category.t": pa.array([r[1] for r in rows], TAGS)}
    )
    table = build_catalog(items_of(trained), details).table
    first = dict(reversed(rows))
    assert table["category.t"].to_pylist() == [first.get(name) for name in trained]
    expected = []
    for name in trained:
        expected += sorted(set(first.get(name) or []) - set(expected))
    assert vocabularies(table)["category.t"].to_pylist() == expected


def test_of_several_rows_the_newest_counts():
    details = pa.table({"id": ["a", "a", "a"], "time": [1, 3, 2], "category.k": ["one", "three", "two"]})
    assert build_catalog(ITEMS, details).table["category.k"].to_pylist() == [None, None, "three"]
    first = build_catalog(ITEMS, details.drop_columns(["time"]))
    assert first.table["category.k"].to_pylist() == [None, None, "one"]


def test_later_items_and_values_only_add_at_the_end():
    first = build_catalog(
        items_of(["b", "a", "gone"]),
        pa.table(
            {
                "id": ["a", "b", "gone"],
                "title": ["A", "B", "G"],
                "category.k": ["v1", "v2", "v3"],
                "category.t": pa.array([["t2"], ["t1", "t2"], None], TAGS),
                "number.n": pa.array([1, 2, 3], pa.float32()),
            }
        ),
    )
    later = pa.table({"item_id": ["new", "a", "b"], "first_time": [0, 1, 2], "count": [7, 8, 9]})
    details = pa.table(
        {
            "id": ["new", "a"],
            "title": ["N", "A2"],
            "category.k": ["a value that sorts first", "v3"],
            "category.t": pa.array([["t0", "t2"], ["t1"]], TAGS),
            "number.n": pa.array([9, 8], pa.float32()),
        }
    )
    second = build_catalog(later, details, earlier=first).table
    assert second["item_id"].to_pylist() == ["b", "a", "gone", "new"]
    assert second["popularity"].to_pylist() == [9, 8, 0, 7]
    assert second["title"].to_pylist() == ["B", "A2", "G", "N"]
    assert second["category.k"].to_pylist() == ["v2", "v3", "v3", "a value that sorts first"]
    assert second["category.t"].to_pylist() == [["t1", "t2"], ["t1"], None, ["t0", "t2"]]
    assert second["number.n"].to_pylist() == [2, 8, 3, 9]
    assert vocabularies(first.table)["category.k"].to_pylist() == ["v2", "v1", "v3"]
    assert vocabularies(second)["category.k"].to_pylist() == ["v2", "v1", "v3", "a value that sorts first"]
    assert vocabularies(second)["category.t"].to_pylist() == ["t1", "t2", "t0"]
    kept = build_catalog(later, None, earlier=first).table
    assert kept["title"].to_pylist() == ["B", "A", "G", None]
    assert kept["category.t"].to_pylist() == [["t1", "t2"], ["t2"], None, None]


def test_statistics_are_those_of_the_items_with_a_value():
    details = pa.table(
        {
            "id": ["a", "b", "not trained", "x"],
            "number.p": pa.array([1, 4, 1e6, None], pa.float32()),
            "number.none": pa.nulls(4, pa.float32()),
        }
    )
    statistics = build_catalog(ITEMS, details).statistics
    assert statistics == {"p": (2.5, 1.5), "none": (0.0, 0.0)}
    assert build_catalog(ITEMS, None).statistics == {}


def test_moments_of_lanes_add_up_to_those_of_all():
    values = (1.7e9 + np.random.default_rng(0).normal(0, 2e4, 900)).astype(np.float32)
    lanes = [values[:0], values[:100], values[100:101], values[101:]]
    tables = [pa.table({"number.x": pa.array(lane), "category.k": ["k"] * len(lane)}) for lane in lanes]
    mean, deviation = merge_moments([moments(table) for table in tables])["x"]
    assert mean == pytest.approx(values.astype(np.float64).mean(), rel=1e-12)
    assert deviation == pytest.approx(values.astype(np.float64).std(), rel=1e-6)


USERS = pa.table(
    {
        "id": ["u1", "u2", "u3", "u3"],
        "category.plan": ["gold", "free", "secret", "free"],
        "category.likes": pa.array([["m"], ["n", "m"], ["m", "only u3"], []], TAGS),
        "number.age": pa.array([30, None, 50, 51], pa.float32()),
    }
)


def test_values_that_only_held_out_users_have_are_unknown():
    training = pa.array(["nobody", "u1", "u2"])
    values = merge_values([category_values(USERS, training, np.zeros(3, np.int64))])
    table = encode_users(pa.array(["u3", "nobody", "u1", "u2"]), USERS, values)
    assert table["user_id"].to_pylist() == ["u3", "nobody", "u1", "u2"]
    assert table["category.plan"].to_pylist() == [None, None, "gold", "free"]
    assert table["category.likes"].to_pylist() == [["m"], None, ["m"], ["n", "m"]]
    assert table["number.age"].to_pylist() == [50, None, 30, None]
    assert {name: values.to_pylist() for name, values in vocabularies(table).items()} == {
        "category.plan": ["free", "gold"],
        "category.likes": ["m", "n"],
    }


def test_lanes_of_users_share_one_numbering():
    lanes = [(["u1"], [7]), (["u2"], [5]), ([], [])]
    parts = [category_values(USERS, pa.array(ids, pa.string()), np.array(times, np.int64)) for ids, times in lanes]
    for order in (parts, parts[::-1]):
        values = merge_values(order)
        assert values["category.plan"].to_pylist() == ["free", "gold"]  # u2 came first
        assert values["category.likes"].to_pylist() == ["m", "n"]
    assert merge_values(parts, {"category.plan": pa.array(["gold", "old"])})["category.plan"].to_pylist() == [
        "gold",
        "old",
        "free",
    ]
    tables = [encode_users(pa.array(ids, pa.string()), USERS, values) for ids in (["u3", "u1"], ["u2"], [])]
    assert len({str(table.schema) for table in tables}) == 1
    assert [table["category.plan"].combine_chunks().indices.to_pylist() for table in tables[:2]] == [[None, 1], [0]]
    assert pa.concat_tables(tables)["category.plan"].to_pylist() == [None, "gold", "free"]


def test_no_training_user_has_a_value():
    values = merge_values([category_values(USERS, pa.array(["nobody"]), np.array([1]))])
    assert values == {}
    table = encode_users(pa.array(["u1", "u2"]), USERS, values)
    assert table["category.plan"].to_pylist() == [None, None]
    assert table["category.likes"].to_pylist() == [[], []]
