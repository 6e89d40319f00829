"""Tables of items and users: read from every kind of file, in blocks, with each kind of column in one form."""

import json
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raysys.data.features import category_column, concat_blocks, latest, number_column, text_column, vector_column
from raysys.data.tables import (
    ItemsConfig,
    TableReport,
    UsersConfig,
    details_of,
    read_details,
    read_table,
    table_pieces,
)
from raysys.errors import UserError


def details(path, drop=(), **more) -> pa.Table:
    return latest(read_details(ItemsConfig(path=str(path), **more), drop)[0])


def titles_of(path, **more) -> dict:
    table = details(path, **more)
    return dict(zip(table["id"].to_pylist(), table["title"].to_pylist(), strict=True))


ROWS = [
    {
        "asin": "a",
        "name": "A, big",
        "brand": " X",
        "tags": [["p", "q"], ["p"]],
        "price": 1.5,
        "v": [1, 2],
        "day": "2020-01-02",
    },
    {"asin": "b", "name": None, "brand": "Y", "tags": [], "price": None, "v": [], "day": ""},
    {"asin": "a", "name": "later", "brand": "Z", "tags": None, "price": 2, "v": [3, 4], "day": None},
    {"asin": None, "name": "of nothing", "brand": "Z", "tags": [], "price": 2, "v": None, "day": None},
]


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.jsonl.gz", "t.json.zst", "t.ndjson", "t.csv", "t.tsv.gz"])
def test_every_kind_of_file_reads_the_same(tmp_path, name):
    path = tmp_path / name
    if "parquet" in name:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        if "json" in name:
            text = "".join(json.dumps(row) + "\n" for row in ROWS)
        else:
            rows = [{**row, "v": row["v"] and str(row["v"])} for row in ROWS]
            text = pd.DataFrame(rows).to_csv(
                index=False, sep="," if "csv" in name else "\t", quoting=3 if "tsv" in name else 0
            )
        with pa.output_stream(str(path), compression="detect") as stream:
            stream.write(text.encode())
    config = ItemsConfig(
        path=str(path),
        id="asin",
        title="name",
        text=["name"],
        categories=["brand", "day"],
        numbers=["price"],
        vectors=["v"],
    )
    table, report = read_details(config)
    assert report == TableReport(rows=4, kept=3, without_id=1)
    assert table.to_pylist() == [
        {
            "id": "a",
            "title": "A, big",
            "text.name": "A, big",
            "category.brand": "X",
            "category.day": "2020-01-02",
            "number.price": 1.5,
            "vector.v": [1, 2],
        },
        {
            "id": "b",
            "title": None,
            "text.name": None,
            "category.brand": "Y",
            "category.day": None,
            "number.price": None,
            "vector.v": None,
        },
        {
            "id": "a",
            "title": "later",
            "text.name": "later",
            "category.brand": "Z",
            "category.day": None,
            "number.price": 2,
            "vector.v": [3, 4],
        },
    ]
    assert table.schema.types == [pa.string()] * 5 + [pa.float32(), pa.list_(pa.float32(), 2)]
    if "csv" not in name and "tsv" not in name:
        tags = details(path, id="asin", title=None, categories=["tags"])
        assert tags["category.tags"].to_pylist() == [["p", "q"], []]


def test_a_directory_of_files_is_one_table_and_row_groups_are_pieces(tmp_path):
    pq.write_table(pa.table({"item_id": [1, 2], "title": ["one", "two"]}), tmp_path / "a.parquet", row_group_size=1)
    pq.write_table(pa.table({"item_id": [2, 3], "title": ["zwei", "three"]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("title,item_id\nvier,4\n")
    (tmp_path / "d.csv").write_text("title,item_id\n")
    config = ItemsConfig(path=str(tmp_path))
    pieces = table_pieces(config)
    assert [(piece.index, piece.group) for piece in pieces] == [(0, 0), (1, 1), (2, 0), (3, 0), (4, 0)]
    assert [sum(len(block) for block in read_table(config, piece)) for piece in pieces] == [1, 1, 2, 1, 0]
    assert titles_of(tmp_path) == {"1": "one", "2": "two", "3": "three", "4": "vier"}


def test_a_part_without_rows_is_an_empty_block_of_the_table(tmp_path):
    none = pa.table(
        {"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string()), "n": pa.array([], pa.int8())}
    )
    pq.write_table(none, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("n,title,item_id\n")
    (tmp_path / "c.jsonl").write_text("\n")
    config = ItemsConfig(path=str(tmp_path), numbers=["n"])
    blocks = [block for piece in table_pieces(config) for block in read_table(config, piece)]
    assert [len(block) for block in blocks] == [0, 0, 0]
    assert concat_blocks(blocks).schema.names == ["id", "title", "number.n"]
    with pytest.raises(UserError, match="the table has no rows with 'item_id'"):
        read_details(config)


def test_only_the_wanted_rows_of_a_large_table_are_kept(tmp_path):
    pq.write_table(pa.table({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]}), tmp_path / "a.parquet")
    table, report = read_details(ItemsConfig(path=str(tmp_path)), wanted=pa.array(["c", "a", "z"]))
    assert table["title"].to_pylist() == ["A", "C"]
    assert report == TableReport(rows=3, kept=3)


def test_blocks_are_bounded_and_together_the_file(tmp_path):
    ids = [f"i{i}" for i in range(40_000)]
    pq.write_table(pa.table({"item_id": ids, "title": ids}), tmp_path / "a.parquet")
    config = ItemsConfig(path=str(tmp_path))
    (piece,) = table_pieces(config)
    blocks = list(read_table(config, piece))
    assert max(len(block) for block in blocks) <= 1 << 14
    assert concat_blocks(blocks)["id"].to_pylist() == ids


@pytest.mark.parametrize("column", [[1.0, 2.0, None], pa.array([1, 2, None]), [" 1", "2 ", " "], [b"1", b"2", None]])
def test_ids_are_read_as_in_the_logs(tmp_path, column):
    pq.write_table(pa.table({"item_id": column, "title": ["one", "two", "none"]}), tmp_path / "a.parquet")
    assert titles_of(tmp_path) == {"1": "one", "2": "two"}


def test_long_json_lines_are_read(tmp_path):
    rows = [{"item_id": str(i), "title": "t" * 700_000} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ItemsConfig(path=str(tmp_path))
    blocks = [block for piece in table_pieces(config) for block in read_table(config, piece)]
    assert len(blocks) > 1
    assert concat_blocks(blocks)["id"].to_pylist() == [row["item_id"] for row in rows]


def test_a_bad_line_or_a_mixture_of_types_spoils_no_neighbour(tmp_path):
    lines = [
        '{"item_id": 1, "title": "one", "k": "x"}',
        "{broken",
        "[3]",
        '{"item_id": "x2", "title": 2, "k": ["y", 5]}',
        "",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table, report = read_details(ItemsConfig(path=str(tmp_path), categories=["k"]))
    assert table.to_pylist() == [
        {"id": "1", "title": "one", "category.k": ["x"]},
        {"id": "x2", "title": "2", "category.k": ["y", "5"]},
    ]
    assert report == TableReport(rows=4, kept=2, malformed=2)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.csv").write_text("item_id,title\n1,one\n2,two,three\n")
    table, report = read_details(ItemsConfig(path=str(tmp_path)))
    assert table["id"].to_pylist() == ["1"]
    assert report == TableReport(rows=2, kept=1, malformed=1)


def test_a_field_that_only_some_objects_have_is_unknown_in_the_others(tmp_path):
    rows = [{"item_id": "a", "title": "t" * (1 << 24)}, {"item_id": "b", "k": "late", "v": [1.5]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = details(tmp_path, categories=["k"], vectors=["v"])
    assert table.select(["category.k", "vector.v"]).to_pylist() == [
        {"category.k": None, "vector.v": None},
        {"category.k": "late", "vector.v": [1.5]},
    ]


def test_rows_with_times_keep_them_and_the_newest_counts(tmp_path):
    pq.write_table(
        pa.table(
            {
                "user_id": ["u", "u", "w", "u", None],
                "since": [1_600_000_000, 1_700_000_000, 1_650_000_000, None, 1_600_000_000],
                "age": [1, 2, 3, 4, 5],
            }
        ),
        tmp_path / "a.parquet",
    )
    table, report = read_details(UsersConfig(path=str(tmp_path), numbers=["age"], timestamp="since"))
    assert table["time"].to_pylist() == [1_600_000_000_000, 1_700_000_000_000, 1_650_000_000_000]
    assert report == TableReport(rows=5, kept=3, without_id=1, without_time=1)
    assert latest(table)["number.age"].to_pylist() == [2, 3]
    assert latest(table, until=1_650_000_000_000)["number.age"].to_pylist() == [1, 3]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=12))
def test_latest_is_the_newest_row_of_each_id(rows):
    table = pa.table(
        {
            "id": pa.array([name for name, _ in rows], pa.string()),
            "time": pa.array([time for _, time in rows], pa.int64()),
            "row": pa.array(range(len(rows)), pa.int64()),
        }
    )
    newest, first = {}, {}
    for row, (name, time) in enumerate(rows):
        first.setdefault(name, row)
        if name not in newest or time >= rows[newest[name]][1]:
            newest[name] = row
    assert latest(table)["row"].to_pylist() == [newest[name] for name in first]
    assert latest(table.drop_columns(["time"]))["row"].to_pylist() == list(first.values())


def test_dropped_columns_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("item_id,title,brand,price\n1,x,y,2\n")
    table = details(tmp_path, drop=("title", "price"), text=["title"], categories=["brand"], numbers=["price"])
    assert table.to_pylist() == [{"id": "1", "category.brand": "y"}]
    with pytest.raises(UserError, match=r"drop: 'item_id' is items\.id and cannot be dropped"):
        details(tmp_path, drop=("item_id",))


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
        ("a.jsonl", '{"item_id": 1, "titel": "x"}', {}, r"items\.title: .* no column 'title'; did you mean 'titel'"),
        ("a.csv", "item_id,title,title\n1,x,y\n", {}, r"items\.title: .* more than one column 'title'"),
        ("a.csv", "item_id,title\n", {}, r"items\.path: .*the table has no rows with 'item_id'"),
        ("a.csv", "", {}, r"a\.csv: the file is empty"),
        ("a.xlsx", "x", {}, r"a table ends in \.parquet, \.csv, \.tsv or \.jsonl"),
        ("a.parquet", "x", {}, r"items\.path: .*a\.parquet: not a parquet file"),
        ("a.jsonl", '{"item_id": 1', {}, r"a\.jsonl: .*no line of it is a JSON object"),
        ("a.jsonl.gz", "{}", {}, r"a\.jsonl\.gz: .*cannot be read"),
        ("a.jsonl", '{"item_id": 1, "title": {"en": "x"}}', {}, r"items\.title: column 'title' holds struct"),
        (
            "a.csv",
            "item_id,title,v\n1,x,1 2\n2,x,1 2 3\n",
            {"vectors": ["v"]},
            r"a\.csv: .*'v' holds vectors of 2 and of 3",
        ),
        ("a.csv", "item_id,title,v\n1,x,\n", {"vectors": ["v"]}, r"items\.vectors: .* no row has a vector in 'v'"),
    ],
)
def test_what_is_no_table_of_items_is_refused(tmp_path, name, content, config, expected):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        details(tmp_path / name, **config)


def test_vectors_have_one_length_over_all_files(tmp_path):
    for name, vector in (("a", None), ("b", [1.0, 2.0]), ("c", [1.0])):
        table = pa.table({"item_id": [name], "v": pa.array([vector], pa.list_(pa.float64()))})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=r"c\.parquet: vector\.v holds vectors of 1 numbers, and .*b\.parquet of 2"):
        details(tmp_path, title=None, vectors=["v"])
    (tmp_path / "c.parquet").unlink()
    assert details(tmp_path, title=None, vectors=["v"])["vector.v"].to_pylist() == [None, [1, 2]]


def test_lists_cannot_change_over_time(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"item_id": 1, "since": 1600000000, "k": ["x"]}')
    with pytest.raises(UserError, match=r"items\.categories: column 'k' holds lists, which cannot change over time"):
        details(tmp_path, title=None, categories=["k"], timestamp="since")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"categories": ["popularity"]}, "'popularity' is a column that the catalog makes itself"),
        ({"categories": ["item_id"]}, "'item_id' is a column that the catalog makes itself"),
        ({"text": ["a"], "numbers": ["a"]}, "column 'a' is listed twice"),
        ({"vectors": ["a", "a"]}, "column 'a' is listed twice"),
        ({"numbers": [""]}, "a column has an empty name"),
        ({"text": ["about"], "timestamp": "t"}, r"text \('about'\) cannot change over time"),
        ({"vectors": ["image"], "timestamp": "t"}, r"vectors \('image'\) cannot change over time"),
        ({"vector": ["image"]}, "unknown key 'vector'; did you mean 'vectors'"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(config, expected):
    with pytest.raises(ValidationError, match=expected):
        ItemsConfig(path="x", **config)


def test_items_that_come_with_a_format_are_details_too():
    table = pa.table({"item_id": ["1", "2"], "title": ["A", None], "genres": [["x", "y"], []]})
    assert details_of(table).to_pylist() == [
        {"id": "1", "title": "A", "category.genres": ["x", "y"]},
        {"id": "2", "title": None, "category.genres": []},
    ]


def chunked(values, kind=None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def test_numbers_that_are_not_finite_are_unknown():
    texts = ["1", " -2.5e1 ", "+3", "x", "", None, "nan", "inf", "1e60", "1e999", ".5", "1,5"]
    expected = [1, -25, 3, None, None, None, None, None, None, None, 0.5, None]
    assert number_column(chunked(texts), "here").to_pylist() == expected
    assert number_column(chunked([math.nan, math.inf, 1e60, None, 2.0]), "here").to_pylist() == [None] * 4 + [2]
    assert number_column(chunked([True, False, None]), "here").to_pylist() == [1, 0, None]
    assert number_column(chunked([2**60]), "here").type == pa.float32()
    for bad in ([[1]], [{"a": 1}], [pd.Timestamp(0)]):
        with pytest.raises(UserError, match=r"here holds .* values"):
            number_column(chunked(bad), "here")


NESTED = st.lists(st.none() | st.lists(st.none() | st.sampled_from(["p", " p", "q", "", "r "]), max_size=4), max_size=3)


@given(st.lists(st.none() | NESTED, max_size=5), st.integers(0, 2), st.sampled_from([pa.list_, pa.large_list]))
def test_nested_categories_are_their_distinct_texts_in_order(rows, skipped, of):
    expected = []
    for row in rows[skipped:]:
        words = [word.strip() for inner in row or [] for word in inner or [] if word is not None and word.strip()]
        expected.append(None if row is None else list(dict.fromkeys(words)))
    column = pa.chunked_array([pa.array(rows, of(of(pa.large_string())))]).slice(skipped)
    assert category_column(column, "here").to_pylist() == expected


def test_categories_of_other_types_are_texts():
    assert category_column(chunked([1.0, 1.5, math.nan, None]), "here").to_pylist() == ["1", "1.5", None, None]
    assert category_column(chunked([True, None]), "here").to_pylist() == ["true", None]
    assert category_column(chunked([b"x", b"\xff"]), "here").to_pylist() == ["x", None]
    assert category_column(chunked(["a", None, " "]).dictionary_encode(), "here").to_pylist() == ["a", None, None]
    assert category_column(chunked([None, None]), "here").to_pylist() == [None, None]
    assert category_column(chunked([[3, 3, 4]]), "here").to_pylist() == [["3", "4"]]


def test_texts_of_a_list_are_joined():
    column = chunked([["one", None, "two"], [], None, ["", "three"]])
    assert text_column(column, "here").to_pylist() == ["one\ntwo", None, None, "\nthree"]
    assert text_column(chunked([" two  words ", "  ", None]), "here").to_pylist() == ["two  words", None, None]


@pytest.mark.parametrize(
    "column",
    [
        chunked([None, [1, 2], [3, None], [], [5, 6]], pa.list_(pa.int16())),
        chunked([None, [1, 2], [3, None], None, [5, 6]], pa.list_(pa.float64(), 2)),
        chunked([None, [1.0, 2.0], [3.0, math.inf], None, [5.0, 6.0]], pa.large_list(pa.float32())),
        chunked(["", "[1, 2]", "3;x", None, " 5|6 "]),
    ],
)
def test_vectors_are_of_one_length_and_unknown_where_a_number_is(column):
    vectors = vector_column(column, "here")
    assert vectors.type == pa.list_(pa.float32(), 2)
    assert vectors.to_pylist() == [None, [1, 2], None, None, [5, 6]]
    with pytest.raises(UserError, match="here holds vectors of 3 and of 2 numbers"):
        vector_column(column, "here", 3)
    assert vector_column(column.slice(0, 1), "here").type == pa.null()
    assert vector_column(column.slice(3), "here").to_pylist() == [None, [5, 6]]


def test_a_number_is_no_vector():
    with pytest.raises(UserError, match="here holds double values; a vector is a list of numbers"):
        vector_column(chunked([1.0]), "here")


def test_blocks_with_and_without_lists_are_one_table():
    blocks = [
        pa.table({"id": ["a"], "category.k": ["x"], "vector.v": pa.nulls(1)}),
        pa.table(
            {
                "id": ["b", "c"],
                "category.k": [["y", "z"], None],
                "vector.v": pa.array([[1], None], pa.list_(pa.float32(), 1)),
            }
        ),
        pa.table({"id": ["d"], "category.k": pa.array([None], pa.string())}),
    ]
    assert concat_blocks(blocks).to_pylist() == [
        {"id": "a", "category.k": ["x"], "vector.v": None},
        {"id": "b", "category.k": ["y", "z"], "vector.v": [1]},
        {"id": "c", "category.k": None, "vector.v": None},
        {"id": "d", "category.k": None, "vector.v": None},
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "2020-01-01", "1.5", " é "]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.fixed_dictionaries({}, optional=dict.fromkeys(["item_id", "t", "k", "n", "v"], JSON))


@given(
    st.lists(
        OBJECTS.map(json.dumps)
        | st.sampled_from(["{", "[1]", "\xff", "{} {}", "  ", "null", '{"item_id": "\\ud800"}']),
        max_size=6,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_objects_hold_is_read_or_refused_in_words(tmp_path, lines):
    path = tmp_path / "any.jsonl"
    path.write_bytes("\n".join(lines).encode("latin-1"))
    config = ItemsConfig(path=str(path), title="t", text=["t"], categories=["k"], numbers=["n"], vectors=["v"])
    report = TableReport()
    try:
        blocks = [block for piece in table_pieces(config) for block in read_table(config, piece, (), report)]
    except UserError:
        return
    assert report.rows == report.kept + report.without_id + report.malformed
    assert report.rows == sum(1 for line in lines if line.strip())
    assert all(name and name == name.strip() for name in concat_blocks(blocks)["id"].to_pylist())


def test_the_real_beauty_items(data_root):
    table = details(data_root / "amazon-2014" / "beauty_items.jsonl.gz", categories=["categories"])
    assert table.num_rows == 12_101
    assert table["title"].null_count < 100
    assert "Beauty" in table["category.categories"][0].as_py()
