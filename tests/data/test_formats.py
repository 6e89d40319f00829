"""Every format, on files small enough to read here and on the real data where it is at hand."""

import gzip
import hashlib
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raysys.component import OneOf
from raysys.data.formats import FORMATS, lines, sequences, source
from raysys.data.formats.source import Columns, EventColumn, Piece
from raysys.data.schema import Fields
from raysys.errors import UserError


def open_format(**settings):
    return FORMATS[settings["format"]](OneOf(FORMATS, tag="format").validate(settings))


def read(**settings) -> tuple[pa.Table, pa.Table]:
    """Read a whole source: (all rows, all malformed lines)."""
    form = open_format(**settings)
    found = [raw for piece in form.pieces() for raw in form.read(piece)]
    tables = [raw.table for raw in found]
    return pa.concat_tables(tables), pa.concat_tables([raw.malformed for raw in found])


def column(table: pa.Table, name: str) -> list:
    return [value.decode() if isinstance(value, bytes) else value for value in table[name].to_pylist()]


def pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(column(table, "user_id"), column(table, "item_id"), strict=True))


@pytest.fixture
def write(tmp_path):
    def make(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return str(path)

    return make


# Files


def test_pieces_are_found_from_any_working_directory(write, tmp_path, monkeypatch):
    write("logs/a.csv", "user_id,item_id\nu1,a\n")
    write("logs/u.data", "1\t2\t3\t4\n")
    monkeypatch.chdir(tmp_path)
    forms = [open_format(**csv("logs/a.csv")), open_format(format="movielens", path="logs")]
    pieces = [form.pieces()[0] for form in forms]
    monkeypatch.chdir(tmp_path.parent)
    assert [next(form.read(piece)).table.num_rows for form, piece in zip(forms, pieces, strict=True)] == [1, 1]


# Delimited


def csv(path: str, **more) -> dict:
    return {"format": "delimited", "path": path, **more}


def test_a_csv_with_header(write):
    path = write("log.csv", "user_id,item_id,stars\nu1,a,5\nu2,b,\n")
    table, bad = read(**csv(path, event="buy", columns={"labels": {"rating": "stars"}}))
    assert pairs(table) == [("u1", "a"), ("u2", "b")]
    assert column(table, "label.rating") == ["5", None]
    assert column(table, "event") == ["buy", "buy"]
    assert column(table, "row") == [2, 3]
    assert pa.types.is_null(table["timestamp"].type), "a log without times says so by the type"
    assert bad.num_rows == 0


def test_columns_are_mapped_by_name_whatever_their_order(write):
    path = write("log.csv", "ts,what,sku,uid,extra\n10,click,a,u1,x\n")
    columns = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "event": "what"}
    table, _ = read(**csv(path, columns=columns))
    assert table.select(["user_id", "item_id", "timestamp", "event"]).to_pylist() == [
        {"user_id": "u1", "item_id": "a", "timestamp": "10", "event": "click"}
    ]


def test_a_file_without_header_line(write):
    path = write("log.csv", "u1,a\nu2,b\n")
    table, _ = read(**csv(path, header=["user_id", "item_id"]))
    assert pairs(table) == [("u1", "a"), ("u2", "b")]
    assert column(table, "row") == [1, 2]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["log.tsv", "log.tsv.gz"])
def test_tabs_gzip_and_both_line_ends(write, name, newline):
    path = write(name, newline.join(["user_id\titem_id", 'u1\t5" disk', "u2\tb,c", ""]))
    table, bad = read(**csv(path, delimiter="\t"))
    assert pairs(table) == [("u1", '5" disk'), ("u2", "b,c")], "a quotation mark is a character like any other"
    assert bad.num_rows == 0


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_quoted_fields_may_hold_the_delimiter(write, delimiter):
    d = delimiter
    path = write("log.csv", f'"user_id"{d}"item{d}id"\nu1{d}"a{d} ""b"""\n"u2"{d}c\n')
    table, _ = read(**csv(path, delimiter=d, columns={"item_id": f"item{d}id"}))
    assert pairs(table) == [("u1", f'a{d} "b"'), ("u2", "c")]


def test_byte_order_mark_and_other_encodings(write):
    table, _ = read(**csv(write("bom.csv", b"\xef\xbb\xbfuser_id,item_id\nu1,\xc3\xa9\n")))
    assert pairs(table) == [("u1", "é")]
    table, _ = read(**csv(write("latin.csv", b"user_id,item_id\nu1,\xe9\n"), encoding="latin-1"))
    assert pairs(table) == [("u1", "é")]
    table, _ = read(**csv(write("bom.csv", b"\xef\xbb\xbfu1,a\nu2,b\n"), header=["user_id", "item_id"]))
    assert pairs(table) == [("u1", "a"), ("u2", "b")]
    table, bad = read(**csv(write("bad.csv", b"user_id,item_id\nu1,\xe9\nu2,\xc3\xa9\n")))
    assert pairs(table) == [("u2", "é")], "a line that is no text does not spoil its neighbours"
    assert bad.to_pylist() == [{"row": 2, "record": "u1,\ufffd"}]


def test_lines_with_too_few_or_many_fields_are_malformed_with_their_line_numbers(write):
    path = write("log.csv", "user_id,item_id\nu1,a\nx\nu2,b\n\nx,y,z\nu3,c\n,d\n")
    table, bad = read(**csv(path))
    assert column(table, "row") == [2, 4, 7, 8]
    assert pairs(table) == [("u1", "a"), ("u2", "b"), ("u3", "c"), (None, "d")]
    assert bad.to_pylist() == [{"row": 3, "record": "x"}, {"row": 6, "record": "x,y,z"}]


@pytest.mark.parametrize("block_bytes", [40, 64, 200, 1 << 20])
@pytest.mark.parametrize("header", [True, False])
def test_line_numbers_are_right_over_many_blocks(write, monkeypatch, block_bytes, header):
    monkeypatch.setattr(lines.read_lines, "__defaults__", (block_bytes, False))
    generator = random.Random(block_bytes)
    kinds = generator.choices(["good", "short", "long", "blank"], [6, 2, 1, 1], k=200)
    text = ["user_id,item_id"] if header else []
    expected: dict[str, list[int]] = {"good": [], "short": [], "long": [], "blank": []}
    for kind in kinds:
        number = len(text) + 1
        expected[kind].append(number)
        text.append({"good": f"u{number},i{number}", "short": f"s{number}", "long": f"l{number},,", "blank": ""}[kind])
    path = write("log.csv", "\n".join(text) + "\n")
    table, bad = read(**csv(path, header=[] if header else ["user_id", "item_id"]))
    assert column(table, "row") == expected["good"]
    assert column(table, "user_id") == [f"u{number}" for number in expected["good"]]
    assert column(bad, "row") == sorted(expected["short"] + expected["long"])
    assert {record.strip(",")[1:] for record in column(bad, "record")} == {str(row) for row in column(bad, "row")}


@pytest.mark.parametrize("content", ["user_id,item_id", "user_id,item_id\n", "user_id,item_id\n\n\n"])
def test_a_header_without_rows_gives_no_rows(write, content):
    form = open_format(**csv(write("log.csv", content)))
    assert sum(raw.table.num_rows + raw.malformed.num_rows for piece in form.pieces() for raw in form.read(piece)) == 0


@pytest.mark.parametrize("header", [[], ["user_id", "item_id"]])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(write, content, header):
    with pytest.raises(UserError, match=r"log\.csv: the file is empty"):
        read(**csv(write("log.csv", content), header=header))


def test_a_missing_column_is_told_with_the_nearest_name(write):
    path = write("log.csv", "user,item_id,when\nu1,a,1\n")
    with pytest.raises(
        UserError, match=r"columns\.user_id: there is no column 'user_id'; did you mean 'user'\?"
    ) as error:
        read(**csv(path))
    assert "the file has: user, item_id, when" in str(error.value)
    with pytest.raises(UserError, match=r"columns\.labels\.rating: there is no column 'stars'"):
        read(**csv(path, columns={"user_id": "user", "labels": {"rating": "stars"}}))


def test_a_column_that_stands_twice_is_refused_where_it_is_needed(write):
    path = write("log.csv", "user_id,item_id,x,x\nu1,a,1,2\n")
    assert pairs(read(**csv(path))[0]) == [("u1", "a")]
    with pytest.raises(UserError, match="more than one column 'x'"):
        read(**csv(path, columns={"timestamp": "x"}))


CUT = gzip.compress(b"user_id,item_id\n" + b"u,i\n" * 9999, mtime=0)[:60]


@pytest.mark.parametrize("content", [b"user_id,item_id\n", CUT])
def test_a_broken_gzip_file_is_refused(tmp_path, content):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"log\.csv\.gz"):
        read(**csv(str(path)))


@pytest.mark.parametrize(
    ("key", "value"),
    [("delimiter", "::"), ("delimiter", ""), ("delimiter", '"'), ("encoding", "klingon"), ("encoding", "utf-16")],
)
def test_settings_that_cannot_work_are_refused_when_the_config_is_read(key, value):
    with pytest.raises(ValidationError, match=key):
        open_format(**csv("log.csv", **{key: value}))


# Parquet


def test_parquet_is_read_by_row_groups_with_row_numbers(tmp_path):
    table = pa.table({"uid": [f"u{i}" for i in range(10)], "sku": list(range(10)), "other": [0.5] * 10})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    pq.write_table(table.slice(0, 3), tmp_path / "b.parquet")
    form = open_format(format="parquet", path=str(tmp_path), columns={"user_id": "uid", "item_id": "sku"})
    pieces = form.pieces()
    assert [(Path(piece.path).name, piece.index, piece.group) for piece in pieces] == [
        ("a.parquet", 0, 0),
        ("a.parquet", 1, 1),
        ("a.parquet", 2, 2),
        ("b.parquet", 3, 0),
    ]
    rows = [column(raw.table, "row") for piece in pieces for raw in form.read(piece)]
    assert rows == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], [1, 2, 3]]
    (second,) = form.read(pieces[1])
    assert pairs(second.table) == [(f"u{i}", i) for i in range(4, 8)]
    assert "other" not in second.table.column_names


def test_parquet_of_the_wrong_kind_is_refused(write, tmp_path):
    with pytest.raises(UserError, match=r"log\.parquet: not a parquet file"):
        open_format(format="parquet", path=write("log.parquet", "user_id,item_id\n")).pieces()
    pq.write_table(pa.table({"uid": ["u"], "item_id": ["a"]}), tmp_path / "x.parquet")
    form = open_format(format="parquet", path=str(tmp_path / "x.parquet"))
    with pytest.raises(UserError, match=r"no column 'user_id'; did you mean 'uid'\? \(the file has: uid, item_id\)"):
        list(form.read(form.pieces()[0]))


def test_parquet_keeps_types_for_validation(tmp_path):
    table = pa.table(
        {
            "user_id": pa.array(["a", "b"]).dictionary_encode(),
            "item_id": pa.array([1.0, None]),
            "ts": pa.nulls(2),
            "x": [1, None],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    found, _ = read(
        format="parquet", path=str(tmp_path / "x.parquet"), columns={"timestamp": "ts", "labels": {"x": "x"}}
    )
    assert found["label.x"].type == pa.int64()
    assert found["timestamp"].type == pa.string(), "a mapped column without a value is missing, not absent"


@pytest.mark.parametrize("fields", [["a", "5"], ["b", "7"]])
def test_an_open_quotation_mark_spoils_its_line_only(write, fields):
    path = write("log.csv", f'user_id,item_id\nu1,a\nu2,"5\n{",".join(fields)}\n"u3",5" disk\nu4,"b\nc"\n')
    table, bad = read(**csv(path))
    assert pairs(table) == [("u1", "a"), tuple(fields), ("u3", '5" disk')]
    assert bad.to_pylist() == [
        {"row": 3, "record": 'u2,"5'},
        {"row": 6, "record": 'u4,"b'},
        {"row": 7, "record": 'c"'},
    ]


def test_wide_files_give_their_mapped_columns_only(write):
    path = write("log.csv", "a,user_id,b,item_id,c\n1,u1,2,x,3\n,,,,\n1,,,,\n")
    table, bad = read(**csv(path))
    assert table.select(["user_id", "item_id", "row"]).to_pylist() == [
        {"user_id": "u1", "item_id": "x", "row": 2},
        {"user_id": None, "item_id": None, "row": 4},
    ], "a line without any value is no row, one without a mapped value is"
    assert bad.num_rows == 0


# JSON lines


def jsonl(path: str, **more) -> dict:
    return {"format": "jsonl", "path": path, **more}


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_json_lines(write, name):
    text = (
        '{"user_id": "2020-01-01", "item_id": 7, "t": 1700000000, "stars": 4, "more": {"x": [1]}}\n'
        '\n{"item_id": 8, "user_id": "u2"}\r\n not json\n[1]\n{"user_id": "u3", "item_id": 9, "stars": 2.5}'
    )
    table, bad = read(**jsonl(write(name, text), columns={"timestamp": "t", "labels": {"rating": "stars"}}))
    assert pairs(table) == [("2020-01-01", 7), ("u2", 8), ("u3", 9)], "text that looks like a time stays text"
    assert column(table, "timestamp") == [1_700_000_000, None, None]
    assert column(table, "label.rating") == [4, None, 2.5]
    assert column(table, "row") == [1, 3, 6]
    assert bad.to_pylist() == [{"row": 4, "record": " not json"}, {"row": 5, "record": "[1]"}]


def test_json_values_of_several_types_become_text(write):
    values = ['"a"', "5", "5.0", "2.5", "true", "null", '{"x": 1}', "123456789012345678901"]
    text = "".join(f'{{"user_id": "u", "item_id": {value}}}\n' for value in values)
    table, bad = read(**jsonl(write("log.jsonl", text)))
    assert column(table, "item_id") == ["a", "5", "5", "2.5", "true", None, '{"x": 1}', "123456789012345678901"]
    assert bad.num_rows == 0


def test_a_bad_line_among_many_costs_itself_only(write):
    good = [f'{{"user_id": "u{n}", "item_id": {n}}}' for n in range(5000)]
    text = [*good[:3000], '{"user_id": "x", "item_id": "y"', *good[3000:]]
    table, bad = read(**jsonl(write("log.jsonl", "\n".join(text))))
    assert pairs(table) == [(f"u{n}", n) for n in range(5000)]
    assert column(table, "row") == [*range(1, 3001), *range(3002, 5002)]
    assert column(bad, "row") == [3001]


def test_a_json_mapping_that_fits_no_line_is_refused_and_a_rare_label_is_not(write):
    path = write("log.jsonl", '{"user": "u", "item_id": 1}\n')
    with pytest.raises(UserError, match=r"columns\.user_id: there is no column 'user_id'; did you mean 'user'\?"):
        read(**jsonl(path))
    table, _ = read(**jsonl(path, columns={"user_id": "user", "labels": {"rating": "stars"}}))
    assert column(table, "label.rating") == [None]


# Parts of files


@pytest.mark.parametrize("format_name", ["delimited", "jsonl", "sequences"])
def test_large_plain_text_is_cut_into_parts_that_hold_each_line_once(write, monkeypatch, format_name):
    monkeypatch.setattr(source, "SPLIT_BYTES", 100)
    rows = [(f"u{n}", f"i{n}" * (n % 7)) for n in range(60)]
    make = {
        "delimited": lambda user, item: f"{user},{item}",
        "jsonl": lambda user, item: f'{{"user_id": "{user}", "item_id": "{item}"}}',
        "sequences": lambda user, item: f"{user} {item or '-'}",
    }[format_name]
    text = "\n".join([*(["user_id,item_id"] if format_name == "delimited" else []), *(make(*row) for row in rows)])
    form = open_format(format=format_name, path=write("log.txt", text))
    pieces = form.pieces()
    assert len(pieces) == -(-len(text) // 100)
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert all(piece.by_offset for piece in pieces)
    found = [raw.table for piece in pieces for raw in form.read(piece)]
    table = pa.concat_tables(found)
    assert column(table, "user_id") == [user for user, _ in rows]
    starts = {text.encode().rfind(b"\n", 0, text.encode().index(make(*row).encode())) + 1 for row in rows}
    assert set(column(table, "row")) == starts, "rows are known by the byte where they begin"
    packed = open_format(format=format_name, path=write("packed.txt.gz", text)).pieces()
    assert [piece.by_offset for piece in packed] == [False], "packed files cannot be cut"


def test_rows_of_all_formats_are_estimated(write, tmp_path):
    text = "user_id,item_id\n" + "u1,a\n" * 5000
    assert open_format(**csv(write("a/log.csv", text))).estimate_rows() == pytest.approx(5000, rel=0.01)
    assert open_format(**csv(write("b/log.csv.gz", text))).estimate_rows() is None
    pq.write_table(pa.table({"user_id": ["u"] * 9, "item_id": ["a"] * 9}), tmp_path / "x.parquet")
    assert open_format(format="parquet", path=str(tmp_path / "x.parquet")).estimate_rows() == 9


# Columns


def test_columns_say_what_the_rows_carry():
    columns = Columns(
        event=EventColumn(column="action", map={"pv": "view"}),
        labels={"click": "is_click"},
        numbers={"hour": "h"},
        categories={"tab": "tab"},
        request_id="req",
    )
    assert columns.fields == Fields(("click",), ("hour",), ("tab",), True)
    assert columns.event_names == {"pv": "view"}
    assert columns.wanted() == {
        "user_id": "user_id",
        "item_id": "item_id",
        "event": "action",
        "label.click": "is_click",
        "number.hour": "h",
        "category.tab": "tab",
        "request_id": "req",
    }
    form = open_format(format="parquet", path="x", columns=columns.model_dump(mode="json"))
    assert form.fields == columns.fields
    assert form.config.columns == columns


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"user_id": ""}, "columns.user_id: a name is empty"),
        ({"labels": {"": "x"}}, "columns.labels.: a name is empty"),
        ({"numbers": {"hour": " "}}, "columns.numbers.hour: a name is empty"),
        ({"user_id": "id", "item_id": "id"}, "item_id and user_id are both mapped to column 'id'"),
        ({"labels": {"x": "a"}, "categories": {"x": "b"}}, "categories.x: labels has that name too"),
        ({"event": {"column": "e", "map": {"pv": ""}}}, "'pv': ''"),
        ({"time_unit": "hours"}, "time_unit"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(columns, text):
    with pytest.raises(ValidationError, match=text):
        Columns(**columns)


def test_dropped_columns_are_not_mapped():
    columns = Columns(labels={"a": "x", "b": "y"}, numbers={"n": "x"}, categories={"c": "z"}, request_id="r")
    left = columns.without({"x", "other"})
    assert left.fields == Fields(("b",), (), ("c",), True)
    assert "x" not in left.wanted().values()
    for name in ("user_id", "r"):
        with pytest.raises(UserError, match=f"drop: '{name}' is the column of columns"):
            columns.without([name])


# Lists


def test_lists_unroll_in_parallel_and_scalars_repeat(tmp_path):
    table = pa.table(
        {
            "user_id": ["u1", "u2", "u3", "u4", "u5"],
            "item_id": [[1, 2, 3], [], None, [4, 5], [6]],
            "stars": pa.array([[5, 4, None], [], None, [1], [2]], pa.large_list(pa.int8())),
            "t": [10, 20, 30, 40, 50],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    columns = {"timestamp": "t", "labels": {"rating": "stars"}}
    (raw,) = (form := open_format(format="parquet", path=str(tmp_path), columns=columns)).read(form.pieces()[0])
    assert raw.empty == 2
    assert raw.table.select(["user_id", "item_id", "timestamp", "label.rating", "row"]).to_pylist() == [
        {"user_id": "u1", "item_id": 1, "timestamp": 10, "label.rating": 5, "row": 1},
        {"user_id": "u1", "item_id": 2, "timestamp": 10, "label.rating": 4, "row": 1},
        {"user_id": "u1", "item_id": 3, "timestamp": 10, "label.rating": None, "row": 1},
        {"user_id": "u4", "item_id": None, "timestamp": 40, "label.rating": None, "row": 4},
        {"user_id": "u5", "item_id": 6, "timestamp": 50, "label.rating": 2, "row": 5},
    ]
    assert column(raw.table, "unequal_lists") == [
        None, None, None, '{"item_id": [4, 5], "label.rating": [1]}', None,
    ]  # fmt: skip


def test_lists_in_json_lines_unroll(write):
    text = (
        '{"user_id": "u1", "item_id": ["a", "b"]}\n{"user_id": "u2", "item_id": "c"}\n{"user_id": "u3", "item_id": []}'
    )
    form = open_format(**jsonl(write("log.jsonl", text)))
    (raw,) = form.read(form.pieces()[0])
    assert (pairs(raw.table), raw.empty) == ([("u1", "a"), ("u1", "b"), ("u2", "c")], 1)


def test_the_real_watch_history_unrolls(data_root):
    path = data_root / "kuairand-pure" / "watch_history.parquet"
    form = open_format(format="parquet", path=str(path), columns={"item_id": "watch_seq"})
    raws = [raw for piece in form.pieces() for raw in form.read(piece)]
    lists = pq.read_table(path)["watch_seq"].to_pylist()
    expected = [item for watched in lists for item in watched or ()]
    assert [item for raw in raws for item in raw.table["item_id"].to_pylist()] == expected
    assert sum(raw.empty for raw in raws) == sum(1 for watched in lists if not watched)


def test_large_row_groups_come_in_several_tables(tmp_path, monkeypatch):
    monkeypatch.setattr("raysys.data.formats.parquet._BATCH_ROWS", 4)
    pq.write_table(pa.table({"user_id": ["u"] * 15, "item_id": range(15)}), tmp_path / "a.parquet", row_group_size=10)
    form = open_format(format="parquet", path=str(tmp_path))
    rows = [[column(raw.table, "row") for raw in form.read(piece)] for piece in form.pieces()]
    assert rows == [[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]], [[11, 12, 13, 14], [15]]]


# Sequences


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
def test_a_line_per_user(write, name):
    table, bad = read(format="sequences", path=write(name, "u1 a b  c\n\nu2\td\nlonely\nu3 e\r\n"), event="view")
    assert pairs(table) == [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "d"), ("u3", "e")]
    assert column(table, "row") == [1, 1, 1, 3, 5]
    assert set(column(table, "event")) == {"view"}
    assert bad.to_pylist() == [{"row": 4, "record": "lonely"}]


def test_a_line_per_event_without_a_last_newline(write):
    table, _ = read(format="sequences", path=write("log.txt", "1 10\n1 11\n2 10"))
    assert pairs(table) == [("1", "10"), ("1", "11"), ("2", "10")]


def test_long_files_come_in_parts_that_lose_nothing(write, monkeypatch):
    monkeypatch.setattr(sequences, "_BLOCK_BYTES", 30)
    text = [f"u{i} a{i} b{i}" if i % 4 else f"x{i}" for i in range(20)]
    table, bad = read(format="sequences", path=write("log.txt", "\n".join(text)))
    assert column(table, "row") == [number for i in range(20) if i % 4 for number in (i + 1, i + 1)]
    assert column(bad, "row") == [i + 1 for i in range(20) if i % 4 == 0]


def test_sequences_that_cannot_be_unpacked_are_refused(tmp_path):
    (tmp_path / "log.txt.gz").write_bytes(b"1 2\n")
    with pytest.raises(UserError, match=r"log\.txt\.gz"):
        read(format="sequences", path=str(tmp_path / "log.txt.gz"))


@pytest.mark.parametrize(
    ("name", "num_users", "num_items", "num_events"),
    [
        ("amazon-2014/Beauty.txt.gz", 22_363, 12_101, 198_502),
        ("amazon-2014/Toys_and_Games.txt.gz", 19_412, 11_924, 167_597),
        ("movielens-1m/ml-1m.txt.gz", 6_040, 3_416, 999_611),
    ],
)
def test_real_sequences_have_the_published_counts(data_root, name, num_users, num_items, num_events):
    table, bad = read(format="sequences", path=str(data_root / name))
    assert table.num_rows == num_events
    assert len(table["user_id"].unique()) == num_users
    assert len(table["item_id"].unique()) == num_items
    assert bad.num_rows == 0
    with gzip.open(data_root / name, "rt") as file:
        user, first = file.readline().split()[:2]
    assert pairs(table.slice(0, 1)) == [(user, first)]


# MovieLens


def test_the_100k_layout(write, tmp_path):
    write("u.data", b"196\t242\t3\t881250949\n\n186\t302\t4\n7\t1\t5\t1\n")
    flags = "|".join("1" if genre in ("Comedy", "War") else "0" for genre in GENRES)
    write("u.item", f"1|Les Misérables (1995)|01-Jan-1995||http://x|{flags}\n2|Caf\x85 (1990)||||\n".encode("latin-1"))
    table, bad = read(format="movielens", path=str(tmp_path))
    assert table.to_pylist()[0] == {
        "user_id": "196",
        "item_id": "242",
        "event": "rating",
        "timestamp": "881250949",
        "label.rating": "3",
        "row": 1,
    }
    assert column(table, "row") == [1, 4]
    assert bad.to_pylist() == [{"row": 3, "record": "186\t302\t4"}]
    items = open_format(format="movielens", path=str(tmp_path / "u.data")).items()
    assert items.to_pylist() == [
        {"item_id": "1", "title": "Les Misérables (1995)", "genres": ["Comedy", "War"]},
        {"item_id": "2", "title": "Caf\x85 (1990)", "genres": []},
    ]


GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip


def test_the_1m_layout(write, tmp_path):
    write("ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n2::1193\n")
    write("movies.dat", "1193::Cuckoo's Nest: One, Flew (1975)::Drama\n661::James (1996)::Animation|Children's\n")
    table, bad = read(format="movielens", path=str(tmp_path))
    assert pairs(table) == [("1", "1193"), ("1", "661")]
    assert column(table, "label.rating") == ["5", "3"]
    assert column(bad, "row") == [3]
    assert open_format(format="movielens", path=str(tmp_path)).items().to_pylist() == [
        {"item_id": "1193", "title": "Cuckoo's Nest: One, Flew (1975)", "genres": ["Drama"]},
        {"item_id": "661", "title": "James (1996)", "genres": ["Animation", "Children's"]},
    ]


def test_movielens_without_titles_or_without_ratings(write, tmp_path):
    write("a/u.data", "1\t2\t3\t4\n")
    assert open_format(format="movielens", path=str(tmp_path / "a")).items() is None
    write("b/u.item", "1|x|")
    with pytest.raises(UserError, match=r"no MovieLens release here; the directory must hold u\.data or ratings\.dat"):
        open_format(format="movielens", path=str(tmp_path / "b")).pieces()


def test_the_real_100k(data_root):
    root = str(data_root / "movielens-100k")
    table, bad = read(format="movielens", path=root)
    assert (table.num_rows, bad.num_rows) == (100_000, 0)
    assert len(table["user_id"].unique()) == 943
    assert Counter(column(table, "label.rating")) == {"1": 6110, "2": 11370, "3": 27145, "4": 34174, "5": 21201}
    assert column(table, "row") == list(range(1, 100_001)), "position is the order in the file: it breaks ties of time"
    items = open_format(format="movielens", path=root).items()
    assert items.num_rows == 1682
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    assert (titles["1"], titles["50"]) == ("Toy Story (1995)", "Star Wars (1977)")
    assert titles["543"] == "Misérables, Les (1995)"


# Synthetic


def synthetic(**more) -> dict:
    return {"format": "synthetic", "num_users": 300, "num_items": 80, "num_tastes": 4, **more}


def walks(table: pa.Table) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for user, item in pairs(table):
        found.setdefault(user, []).append(int(item[1:]))
    return found


def test_the_same_seed_gives_the_same_log():
    first, again, other = (read(**synthetic(seed=seed))[0] for seed in (3, 3, 4))
    assert first.equals(again)
    assert not first.equals(other)


@pytest.mark.parametrize("order", [0.0, 0.5, 0.9, 1.0])
def test_the_planted_successor_comes_next_as_often_as_said(order):
    settings = synthetic(num_users=1000, num_items=2000, num_tastes=8, order=order)
    form = open_format(**settings)
    steps = [(a, b) for walk in walks(read(**settings)[0]).values() for a, b in pairwise(walk)]
    before, after = np.array(steps).T
    share = (form.successor(before) == after).mean()
    assert share == pytest.approx(order, abs=0.03)  # a popular item is now and then the successor by chance
    assert (form.taste_of(before) == form.taste_of(after)).all()


def test_ratings_tell_the_taste_and_times_rise():
    settings = synthetic(days=5)
    table, _ = read(**settings)
    stars = table["label.rating"].to_numpy()
    assert stars.min() >= 1
    assert stars.max() <= 5
    assert stars.mean() > 4
    for user in ("u0", "u7"):
        times = np.array([row["timestamp"] for row in table.to_pylist() if row["user_id"] == user])
        assert (np.diff(times) >= 0).all()
        assert times[-1] - times[0] <= 5 * 86_400_000


def test_lengths_and_sizes_are_as_configured():
    table, _ = read(**synthetic(num_users=2000, events_per_user=12))
    lengths = np.array([len(walk) for walk in walks(table).values()])
    assert len(lengths) == 2000
    assert lengths.min() == 3
    assert lengths.mean() == pytest.approx(12, rel=0.06)


def test_large_logs_come_in_pieces_of_their_own():
    form = open_format(**synthetic(num_users=45_000, events_per_user=3))
    pieces = form.pieces()
    assert [piece.index for piece in pieces] == [0, 1, 2]
    (last,) = form.read(pieces[2])
    users = {int(user[1:]) for user in column(last.table, "user_id")}
    assert (min(users), max(users)) == (40_000, 44_999)
    (again,) = form.read(Piece(pieces[2].path, 9, 2))
    assert again.table.equals(last.table), "a piece does not depend on its place among others"


@pytest.mark.parametrize("sizes", [(4, 1), (4, 4), (20, 8), (9, 8), (200, 8), (7, 3)])
def test_any_sizes_work(sizes):
    num_items, num_tastes = sizes
    form = open_format(**synthetic(num_items=num_items, num_tastes=num_tastes))
    items = {
        item
        for walk in walks(read(**synthetic(num_items=num_items, num_tastes=num_tastes))[0]).values()
        for item in walk
    }
    assert items <= set(range(num_items))
    assert form.items().num_rows == num_items
    for taste in range(num_tastes):
        block = [item for item in range(num_items) if form.taste_of(np.array([item]))[0] == taste]
        assert set(form.successor(np.array(block))) <= set(block)


def test_more_tastes_than_items_are_refused():
    with pytest.raises(ValidationError, match=r"num_tastes \(9\) must be at most num_items \(8\)"):
        open_format(**synthetic(num_items=8, num_tastes=9))
    with pytest.raises(ValidationError):
        FORMATS["synthetic"].Config(num_items=3)


def test_the_retail_tables_are_one_funnel():
    tables = {name: read(**synthetic(table=name, seed=1))[0] for name in ("impression", "click", "cart", "purchase")}
    found = {name: Counter(pairs(table)) for name, table in tables.items()}
    for inner, outer in (("click", "impression"), ("cart", "click"), ("purchase", "cart")):
        assert found[inner] <= found[outer], f"a {inner} without {outer}"
    sizes = {name: table.num_rows for name, table in tables.items()}
    assert sizes["cart"] / sizes["click"] == pytest.approx(0.3, abs=0.03)
    assert 0 < sizes["purchase"] < sizes["cart"]
    for name, table in tables.items():
        assert set(column(table, "event")) == {name}
    first_in_cart: dict[tuple[str, str], int] = {}
    for pair, time in zip(pairs(tables["cart"]), tables["cart"]["timestamp"].to_pylist(), strict=True):
        first_in_cart[pair] = min(time, first_in_cart.get(pair, time))
    bought = zip(pairs(tables["purchase"]), tables["purchase"]["timestamp"].to_pylist(), strict=True)
    assert all(time > first_in_cart[pair] for pair, time in bought)


def test_the_tables_of_the_funnel_share_their_requests():
    tables = {name: read(**synthetic(table=name, seed=2))[0] for name in ("impression", "click", "cart", "purchase")}
    shown = {(row["request_id"], row["user_id"], row["item_id"]) for row in tables["impression"].to_pylist()}
    assert len(shown) == tables["impression"].num_rows, "no request shows an item twice"
    assert len({request for request, _, _ in shown}) * 2 == len(shown)
    for name in ("click", "cart", "purchase"):
        rows = [(row["request_id"], row["user_id"], row["item_id"]) for row in tables[name].to_pylist()]
        assert set(rows) <= shown
        assert len(set(rows)) == len(rows)
        assert open_format(**synthetic(table=name)).fields == Fields(request_id=True)
    assert "request_id" not in read(**synthetic())[0].column_names


def test_the_plain_log_is_the_one_it_always_was():
    table, _ = read(**synthetic(seed=7))
    text = "\n".join(map(str, table.select(["user_id", "item_id", "event", "timestamp", "row"]).to_pylist()))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "3c6d7c58a9f4e5870523c7bbef7cb79b98b79161ea7b80c786395e367d1e4731"
    )
