"""The table of items: joined to the vocabulary, read from every kind of file."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.configfile import build
from raysys.data.catalog import Catalog, build_catalog, read_details
from raysys.data.config import IngestConfig
from raysys.data.formats.source import ItemsConfig
from raysys.errors import UserError

TRAIN_ITEMS = pa.table({"item_id": ["b", "x", "a"], "first_time": [1, 2, 3], "count": [5, 0, 2]})


def details(path, **more) -> pa.Table:
    return read_details(ItemsConfig(path=str(path), **more))


def titles_of(path, **more) -> dict:
    table = details(path, **more)
    return dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))


def test_the_catalog_is_in_vocabulary_order_with_popularity():
    catalog = build_catalog(TRAIN_ITEMS, pa.table({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]}))
    assert catalog.table["item_id"].to_pylist() == ["b", "x", "a"]
    assert catalog.table["title"].to_pylist() == ["B", None, "A"]
    assert catalog.popularity.tolist() == [0, 0, 5, 0, 2]
    assert catalog.popularity.dtype == np.float32
    assert catalog.titles(np.array([[4, 2], [3, 3]])) == ["A", "B", None, None]


def test_the_join_is_what_pandas_merges():
    generator = np.random.default_rng(0)
    names = [f"i{i}" for i in generator.permutation(200)]
    train = pa.table({"item_id": names[:150], "first_time": range(150), "count": generator.integers(0, 9, 150)})
    frame = pd.DataFrame({"item_id": names[50:], "title": [f"title {n}" for n in names[50:]], "brand": "x"})
    found = build_catalog(train, pa.Table.from_pandas(frame.sample(frac=1, random_state=0), preserve_index=False)).table
    expected = train.to_pandas()[["item_id", "count"]].merge(frame, on="item_id", how="left")
    assert (
        found["title"].to_pylist() == expected["title"].astype(object).where(expected["title"].notna(), None).tolist()
    )
    assert found["brand"].null_count == 50
    assert found["popularity"].to_pylist() == expected["count"].tolist()


def test_without_details_titles_are_unknown(tmp_path):
    for given in (None, pa.table({"item_id": ["a"], "brand": ["B"]})):
        catalog = build_catalog(TRAIN_ITEMS, given)
        assert catalog.titles(np.array([2, 3, 4])) == [None, None, None]
        catalog.save(tmp_path / "c.arrow")
        assert Catalog.load(tmp_path / "c.arrow").table.equals(catalog.table)


ROWS = [
    {"asin": "a", "name": "A, big", "brand": "X", "tags": [["p", "q"]], "price": 1.5},
    {"asin": "b", "name": None, "brand": "Y", "tags": [], "price": None},
    {"asin": "a", "name": "later", "brand": "Z", "tags": [], "price": 2},
]


@pytest.mark.parametrize(
    "name", ["items.parquet", "items.jsonl", "items.jsonl.gz", "items.ndjson", "items.csv", "items.tsv"]
)
def test_every_kind_of_file_reads_the_same(tmp_path, name):
    path = tmp_path / name
    frame = pd.DataFrame(ROWS)
    if name == "items.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif "json" in name:
        text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    else:
        frame.to_csv(path, index=False, sep="," if name.endswith("csv") else "\t")
    table = details(path, id="asin", title="name", categories=["brand", "price"])
    assert table.sort_by("item_id").to_pylist() == [
        {"item_id": "a", "brand": "X", "price": "1.5", "title": "A, big"},
        {"item_id": "b", "brand": "Y", "price": None, "title": None},
    ]
    if "json" in name:
        tags = details(path, id="asin", title=None, categories=["tags"]).sort_by("item_id")["tags"].to_pylist()
        assert [json.loads(tag) for tag in tags] == [[["p", "q"]], []]


def test_a_directory_of_files_is_one_table(tmp_path):
    pq.write_table(pa.table({"item_id": [1, 2], "title": ["one", "two"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"item_id": [2, 3], "title": ["zwei", "three"]}), tmp_path / "b.parquet")
    assert titles_of(tmp_path) == {"1": "one", "2": "two", "3": "three"}


@pytest.mark.parametrize("column", [[1.0, 2.0, None], pa.array([1, 2, None]), [" 1", "2 ", None], [b"1", b"2", None]])
def test_ids_are_read_as_in_the_logs(tmp_path, column):
    pq.write_table(pa.table({"item_id": column, "title": ["one", "two", "none"]}), tmp_path / "a.parquet")
    catalog = build_catalog(TRAIN_ITEMS.set_column(0, "item_id", pa.array(["2", "1", "9"])), details(tmp_path))
    assert catalog.titles(np.array([2, 3, 4])) == ["two", "one", None]


def test_long_json_lines_are_read(tmp_path):
    rows = [{"item_id": str(i), "title": "t" * 700_000} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert details(tmp_path).num_rows == 4


@pytest.mark.parametrize(
    ("name", "content", "config", "expected"),
    [
        (
            "a.csv",
            "item_id,titel\n1,x\n",
            {},
            r"items\.title: .* no column 'title'; did you mean 'titel'\? \(it has: item_id",
        ),
        ("a.csv", "sku,title\n1,x\n", {}, r"items\.id: .* no column 'item_id'"),
        ("a.csv", "item_id,title\n1,x\n", {"categories": ["brand"]}, r"items\.categories: .* no column 'brand'"),
        ("a.csv", "item_id,title\n", {}, r"a\.csv: the table has a header and no rows"),
        ("a.csv", "", {}, r"a\.csv: the file is empty"),
        ("a.xlsx", "x", {}, r"an item table ends in \.parquet, \.csv, \.tsv or \.jsonl"),
        ("a.parquet", "x", {}, r"items\.path: .*cannot be read as a table of items"),
        ("a.jsonl", '{"item_id": 1', {}, r"items\.path: .*cannot be read as a table of items"),
        ("a.jsonl", '{"item_id": 1}\n{"item_id": "x"}\n', {}, r"items\.path: .*cannot be read as a table of items"),
        ("a.jsonl.gz", "{}", {}, r"items\.path: .*cannot be read as a table of items"),
    ],
)
def test_what_is_no_item_table_is_refused(tmp_path, name, content, config, expected):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        details(tmp_path / name, **config)


@pytest.mark.parametrize("name", ["item_id", "popularity"])
def test_categories_may_not_take_names_of_the_catalog(name):
    node = {"project": "p", "format": "synthetic", "items": {"path": "x.csv", "categories": [name]}}
    with pytest.raises(UserError, match=f"items.categories: '{name}' is a column that the catalog makes itself"):
        build(IngestConfig, node, "here")


def test_the_real_beauty_items(data_root):
    table = details(data_root / "amazon-2014" / "beauty_items.jsonl.gz", categories=["categories"])
    assert table.num_rows == 12_101
    assert table["title"].null_count < 100
