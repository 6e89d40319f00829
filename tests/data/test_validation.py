"""Rules, times in every notation, and the promise that no row is lost."""

import dataclasses
import json
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raysys.data.formats.source import MALFORMED
from raysys.data.validation import REJECTED, RULES, RowRules, RulesConfig, ValidationReport, validate
from raysys.data.values import as_text, parse_numbers, to_floats
from raysys.errors import UserError

NOW = 1_800_000_000_000
LIMITS = {"rating": (1.0, 5.0), "hour": (0.0, 23.0)}
RULES_OF_SECONDS = RowRules(NOW, "s", True, None, LIMITS)


def raw_table(**columns) -> pa.Table:
    """Two good rows, with the given columns instead of the good ones."""
    good = {
        "user_id": pa.array(["u1", "u2"]),
        "item_id": pa.array(["a", "b"]),
        "event": pa.array(["click", "click"]),
        "timestamp": pa.nulls(2),
    }
    given = {name: value if isinstance(value, pa.Array) else pa.array(value) for name, value in columns.items()}
    return pa.table({**good, **given, "row": pa.array([7, 9])})


def judged(rules=RULES_OF_SECONDS, **columns) -> tuple[list[dict], list[tuple[str, int]]]:
    kept, rejected = validate(raw_table(**columns), MALFORMED.empty_table(), "log", rules)
    return kept.to_pylist(), [(row["rule"], row["row"]) for row in rejected.to_pylist()]


# Rules


@pytest.mark.parametrize(
    ("rule", "columns"),
    [
        ("missing_user", {"user_id": ["u1", None]}),
        ("missing_user", {"user_id": ["u1", " \t"]}),
        ("missing_user", {"user_id": [1.0, 2.5]}),
        ("missing_user", {"user_id": [1.0, float("nan")]}),
        ("missing_user", {"user_id": [b"u1", b"\xff"]}),
        ("missing_item", {"item_id": ["a", None]}),
        ("missing_item", {"item_id": ["a", ""]}),
        ("missing_event", {"event": ["click", None]}),
        ("missing_event", {"event": ["click", " "]}),
        ("unreadable_time", {"timestamp": ["1700000000", "yesterday"]}),
        ("unreadable_time", {"timestamp": ["1700000000", ""]}),
        ("unreadable_time", {"timestamp": [1700000000, None]}),
        ("unreadable_time", {"timestamp": [1.7e9, float("nan")]}),
        ("unreadable_time", {"timestamp": [b"1700000000", b"17\xff"]}),
        ("future_time", {"timestamp": [NOW // 1000, NOW // 1000 + 1]}),
        ("not_a_number", {"label.rating": ["4.5", "good"]}),
        ("not_a_number", {"label.rating": [b"1", b"\xff"]}),
        ("not_a_number", {"label.rating": [1, 2], "number.hour": ["1", "x"]}),
        ("not_finite", {"label.rating": [4.5, float("inf")]}),
        ("not_finite", {"label.rating": [4.5, 1e300]}),
        ("not_finite", {"number.hour": ["4.5", "-Infinity"]}),
        ("not_finite", {"number.other": ["", "nan"]}),
        ("not_finite", {"number.other": ["+1", "1e999"]}),
        ("out_of_range", {"label.rating": [5, 5.1]}),
        ("out_of_range", {"number.hour": ["0", "-1"], "label.hour": [None, 0.0]}),
        ("unequal_lists", {"item_id": ["a", None], "unequal_lists": [None, '{"item_id": ["b", "c"]}']}),
    ],
)
def test_each_rule_rejects_its_row_and_no_other(rule, columns):
    kept, rejected = judged(**columns)
    assert rejected == [(rule, 9)]
    assert len(kept) == 1
    assert kept[0]["item_id"] == "a"


def test_every_rule_is_tested_above():
    marks = test_each_rule_rejects_its_row_and_no_other.pytestmark
    tested = {case[0] for mark in marks for case in mark.args[1]}
    assert tested | {"unknown_event"} == set(RULES)


def test_events_are_renamed_by_their_map_and_others_rejected():
    rules = dataclasses.replace(RULES_OF_SECONDS, events={"pv": "view", "buy": "purchase"})
    kept, rejected = judged(rules, event=[" buy", "cart"])
    assert ([row["event"] for row in kept], rejected) == (["purchase"], [("unknown_event", 9)])
    assert judged(rules, event=["view", ""])[1] == [("unknown_event", 7), ("missing_event", 9)]
    assert judged(dataclasses.replace(rules, events={}), event=["cart", "cart"])[1] == []


def test_a_detected_unit_is_strict_and_a_known_one_is_not():
    strict = dataclasses.replace(RULES_OF_SECONDS, known_unit=False)
    assert judged(timestamp=[17, 1_700_000_000])[1] == []
    assert judged(strict, timestamp=[17, 1_700_000_000])[1] == [("unreadable_time", 7)]
    iso = dataclasses.replace(strict, time_unit="iso")
    assert judged(iso, timestamp=["2023-01-01", "2923-01-01"])[1] == [("future_time", 9)]
    assert [row["timestamp"] for row in judged(iso, timestamp=["1970-01-02", "later"])[0]] == [86_400_000]


@pytest.mark.parametrize(
    "columns",
    [
        {"label.rating": [4, None]},
        {"label.rating": ["4", " "]},
        {"label.rating": pa.nulls(2, pa.string())},
        {"label.other": [True, False]},
        {"timestamp": pa.nulls(2)},
        {"timestamp": [NOW // 1000, 0]},
        {"category.tab": ["", None], "request_id": [None, " "]},
        {"label.rating": [1, 5], "number.hour": [0, 23], "label.other": [1e30, -1e30]},
        {"user_id": [1, 2], "item_id": [2**63 - 1, 0]},
    ],
)
def test_what_is_unknown_or_unusual_but_right_is_kept(columns):
    kept, rejected = judged(**columns)
    assert (len(kept), rejected) == (2, [])


def test_a_row_is_rejected_once_by_the_first_rule_it_breaks():
    _, rejected = judged(user_id=[None, ""], item_id=[None, "b"], timestamp=["x", "y"])
    assert rejected == [("missing_user", 7), ("missing_user", 9)]


def test_a_mapped_time_column_without_values_rejects_its_rows():
    _, rejected = judged(timestamp=pa.nulls(2, pa.int64()))
    assert rejected == [("unreadable_time", 7), ("unreadable_time", 9)]


def test_ids_are_trimmed_text_whatever_their_type():
    def texts(values, kind=None):
        return as_text(pa.chunked_array([pa.array(values, kind)])).to_pylist()

    assert texts([" a ", "a\n", "ä b"]) == ["a", "a", "ä b"]
    assert texts([12, -3]) == ["12", "-3"]
    assert texts([12.0, None, 2.0**53, 1e300, float("inf"), 0.5]) == ["12", None, str(2**53), None, None, None]
    assert texts([b"a", "ä".encode(), b"\xff", None]) == ["a", "ä", None, None]
    kept, _ = judged(user_id=pa.array(["x", "y"]).dictionary_encode(), item_id=pa.array([b"ab", b"cd"], pa.binary(2)))
    assert [(row["user_id"], row["item_id"]) for row in kept] == [("x", "ab"), ("y", "cd")]


def test_labels_and_numbers_become_floats():
    kept, _ = judged(**{"label.a": ["+4.5", " 1e1 "], "label.b": [True, None], "number.c": [np.float16(0.5), None]})
    assert [(row["label.a"], row["label.b"], row["number.c"]) for row in kept] == [(4.5, 1.0, 0.5), (10.0, None, None)]
    for values, kind in (([3, None], pa.int64()), (["3", ""], None), ([3, None], pa.date32())):
        table, _ = validate(
            raw_table(**{"label.a": pa.array(values, kind)}), MALFORMED.empty_table(), "log", RULES_OF_SECONDS
        )
        assert table["label.a"].type == pa.float32()
        assert table["label.a"].to_pylist() == [3.0, None]


def test_categories_and_requests_become_text():
    kept, _ = judged(**{"category.tab": [1, 2], "category.price": [0.5, 3.0], "request_id": [" r1", ""]})
    assert [(row["category.tab"], row["category.price"], row["request_id"]) for row in kept] == [
        ("1", "0.5", "r1"),
        ("2", "3", None),
    ]


def test_kept_rows_have_the_types_of_events_and_their_row():
    table, _ = validate(raw_table(), MALFORMED.empty_table(), "log", RULES_OF_SECONDS)
    assert {field.name: field.type for field in table.schema} == {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "event": pa.string(),
        "timestamp": pa.int64(),
        "row": pa.int64(),
    }
    assert table["row"].to_pylist() == [7, 9]
    assert table["timestamp"].to_pylist() == [None, None]


def test_white_space_is_trimmed_wherever_it_stands():
    """The quick look for white space must see every kind of it, in sliced columns too."""
    for space in (" ", "\t", "\u00a0", "\u3000", "\n"):
        column = pa.chunked_array([pa.array(["x", "a", f"b{space}"]).slice(1), pa.array(["c"])])
        assert as_text(column).to_pylist() == ["a", "b", "c"]


@given(st.lists(st.none() | st.sampled_from(["1", " 2", "+3", "nan", "-inf", "1e999", "x", "", "4.5e1", "0x1"])))
def test_numbers_in_text_do_not_depend_on_their_neighbours(texts):
    numbers, wrong = to_floats(pa.chunked_array([pa.array(texts, pa.string())]))
    wrong = np.zeros(len(texts), bool) if wrong is None else wrong
    expected = {"1": 1, " 2": 2, "+3": 3, "nan": np.nan, "-inf": -np.inf, "1e999": np.inf, "4.5e1": 45}
    for text, number, is_wrong in zip(texts, numbers.to_pylist(), wrong, strict=True):
        assert is_wrong == (text in ("x", "0x1"))
        if text not in expected:
            assert number is None
        elif np.isfinite(expected[text]):
            assert number == expected[text]
        else:
            assert not np.isfinite(number)
    parsed = parse_numbers(pa.chunked_array([pa.array(texts, pa.string())])).to_pylist()
    finite = [number is not None and abs(number) < 1e9 for number in parsed]
    assert finite == [text in expected and bool(np.isfinite(expected[text])) for text in texts]


def test_columns_of_a_kind_that_cannot_be_read_are_named():
    for value in (
        [[1], [2]],
        [{"a": 1}, {"a": 2}],
        pa.array([1, 2], pa.duration("s")),
        pa.array([1, 2], pa.time32("s")),
    ):
        with pytest.raises(UserError, match="log: timestamp: its column holds"):
            judged(timestamp=value)


# Rejected rows


def test_rejected_rows_are_kept_with_rule_source_row_and_record():
    raw = raw_table(user_id=[b"\xff", b"u2"], timestamp=[datetime(2023, 1, 1), None])
    malformed = pa.table({"row": [3], "record": ["x,y,z"]}, schema=MALFORMED)
    kept, rejected = validate(raw, malformed, "logs/a.csv", RULES_OF_SECONDS)
    assert kept.num_rows == 0
    assert rejected.schema == REJECTED
    rows = rejected.to_pylist()
    assert rows[0] == {"rule": "malformed_line", "source": "logs/a.csv", "row": 3, "offset": None, "record": "x,y,z"}
    assert [(row["rule"], row["source"], row["row"]) for row in rows[1:]] == [
        ("missing_user", "logs/a.csv", 7),
        ("unreadable_time", "logs/a.csv", 9),
    ]
    assert json.loads(rows[1]["record"]) == {
        "user_id": "\ufffd",
        "item_id": "a",
        "event": "click",
        "timestamp": "2023-01-01 00:00:00",
    }


def test_rows_by_offset_say_so_and_lines_can_be_kept_back():
    raw = raw_table(
        user_id=["", "u2"], item_id=["a", None], unequal_lists=[None, '{"item_id": [1], "user_id": [2, 3]}']
    )
    malformed = pa.table({"row": [3], "record": ["x,y,z"]}, schema=MALFORMED)
    _, rejected = validate(raw, malformed, "log", RULES_OF_SECONDS, by_offset=True, keep_text=False)
    rows = rejected.to_pylist()
    assert [(row["rule"], row["row"], row["offset"]) for row in rows] == [
        ("malformed_line", None, 3),
        ("missing_user", None, 7),
        ("unequal_lists", None, 9),
    ]
    assert rows[0]["record"] is None
    assert json.loads(rows[2]["record"]) == {"user_id": "u2", "item_id": [1], "event": "click", "timestamp": None}
    _, rejected = validate(raw, malformed, "log", RULES_OF_SECONDS)
    assert json.loads(rejected["record"][2].as_py())["user_id"] == [2, 3]


def test_rules_that_cannot_hold_are_refused():
    assert RulesConfig(ranges={"x": (0, 0)}).ranges == {"x": (0.0, 0.0)}
    with pytest.raises(ValidationError, match=r"x: the lowest value \(2\.0\) must be at most the highest \(1\.0\)"):
        RulesConfig(ranges={"x": (2, 1)})
    with pytest.raises(ValidationError, match="max_events_per_minute"):
        RulesConfig(max_events_per_minute=0)


def test_reports_add_up():
    parts = [ValidationReport(5, 3, {"missing_user": 2}), ValidationReport(4, 1, {"missing_user": 1, "future_time": 2})]
    assert ValidationReport.total(parts) == ValidationReport(9, 4, {"missing_user": 3, "future_time": 2})
    assert ValidationReport.total([]) == ValidationReport()
    cleaned = [ValidationReport(3, 1, {}, {"bots": 2}), ValidationReport(1, 0, {}, {"bots": 1})]
    assert ValidationReport.total(cleaned) == ValidationReport(4, 1, {}, {"bots": 3})


# Whatever comes

texts = st.one_of(st.none(), st.text(max_size=4), st.sampled_from(["u1", "1e999", "2023-01-01", "nan", "-3", "  "]))
VALUES = {
    pa.string(): texts,
    pa.large_string(): texts,
    pa.binary(): st.none() | st.binary(max_size=3),
    pa.large_binary(): st.none() | st.binary(max_size=3),
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.none() | st.integers(0, 2**64 - 1),
    pa.float64(): st.none() | st.floats(),
    pa.float32(): st.none() | st.floats(width=32),
    pa.bool_(): st.none() | st.booleans(),
    pa.decimal128(9, 2): st.none() | st.decimals(-999, 999, places=2),
    pa.timestamp("s"): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.timestamp("ms"): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.timestamp("ns"): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.date32(): st.none() | st.integers(-(2**31), 2**31 - 1),
    pa.list_(pa.int64()): st.none() | st.lists(st.integers(0, 3), max_size=2),
    pa.null(): st.none(),
}


@st.composite
def messy_tables(draw) -> tuple[pa.Table, pa.Table]:
    num_rows, num_bad = draw(st.integers(0, 6)), draw(st.integers(0, 2))
    columns = {}
    for name in ("user_id", "item_id", "event", "timestamp", "label.x", "number.y"):
        is_plain = name in ("user_id", "item_id", "event") and draw(st.booleans())
        kind = pa.string() if is_plain else draw(st.sampled_from(list(VALUES)))
        values = draw(st.lists(VALUES[kind], min_size=num_rows, max_size=num_rows))
        columns[name] = pa.array(values, kind)
        if pa.types.is_string(kind) and draw(st.booleans()):
            columns[name] = columns[name].dictionary_encode()
    cut = draw(st.integers(0, num_rows))
    table = pa.table({**columns, "row": pa.array(range(1, num_rows + 1), pa.int64())})
    bad = pa.table({"row": list(range(num_bad)), "record": ["?"] * num_bad}, schema=MALFORMED)
    return pa.concat_tables([table.slice(0, cut), table.slice(cut)]), bad


units = ("s", "ms", "us", "ns", "iso", "arrow")


@settings(max_examples=200)
@given(messy_tables())
def test_no_row_is_lost_and_only_a_users_mistake_is_raised(tables):
    raw, malformed = tables
    unit = units[len(raw) % len(units)]
    try:
        kept, rejected = validate(raw, malformed, "log", dataclasses.replace(RULES_OF_SECONDS, time_unit=unit))
    except UserError:
        assert any(pa.types.is_list(field.type) for field in raw.schema)
        return
    assert raw.num_rows + malformed.num_rows == kept.num_rows + rejected.num_rows
    lines = [row["row"] for row in rejected.to_pylist() if row["rule"] != "malformed_line"]
    assert len(set(lines)) == len(lines), "a row was rejected twice"
    for record in rejected["record"].to_pylist()[malformed.num_rows :]:
        assert set(json.loads(record)) == {"user_id", "item_id", "event", "timestamp", "label.x", "number.y"}
    for row in kept.to_pylist():
        assert row["user_id"] == row["user_id"].strip(" \t\n\r") != ""
        assert row["timestamp"] is None or abs(row["timestamp"]) <= max(NOW, 10**15)
        assert row["label.x"] is None or np.isfinite(row["label.x"])
