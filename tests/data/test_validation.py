"""Rules, times in every notation, and the promise that no row is lost."""

import json
import time
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.data.formats.source import MALFORMED
from raysys.data.validation import REJECTED, RULES, ValidationReport, as_text, to_milliseconds, validate
from raysys.errors import UserError

NOW = 1_800_000_000_000
MOMENT = datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)
MS = 1_700_000_000_500


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


def judged(**columns) -> tuple[list[dict], list[tuple[str, int]]]:
    kept, rejected = validate(raw_table(**columns), MALFORMED.empty_table(), "log", NOW)
    return kept.to_pylist(), [(row["rule"], row["row"]) for row in rejected.to_pylist()]


def milliseconds(*values, kind=None) -> list[int | None]:
    return to_milliseconds(pa.chunked_array([pa.array(values, kind)])).to_pylist()


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
        ("future_time", {"timestamp": [NOW, NOW + 1]}),
        ("future_time", {"timestamp": ["2023-01-01", "2923-01-01"]}),
        ("unreadable_label", {"label.rating": ["4.5", "good"]}),
        ("unreadable_label", {"label.rating": [4.5, float("inf")]}),
        ("unreadable_label", {"label.rating": [4.5, 1e300]}),
        ("unreadable_label", {"label.rating": [b"1", b"\xff"]}),
        ("unreadable_label", {"label.rating": [1, 2], "label.other": ["1", "x"]}),
    ],
)
def test_each_rule_rejects_its_row_and_no_other(rule, columns):
    kept, rejected = judged(**columns)
    assert rejected == [(rule, 9)]
    assert len(kept) == 1
    assert kept[0]["item_id"] == "a"


def test_every_rule_is_tested_above():
    marks = test_each_rule_rejects_its_row_and_no_other.pytestmark
    assert {case[0] for mark in marks for case in mark.args[1]} == set(RULES)


@pytest.mark.parametrize(
    "columns",
    [
        {"label.rating": [4, None]},
        {"label.rating": ["4", " "]},
        {"label.rating": pa.nulls(2, pa.string())},
        {"label.rating": [True, False]},
        {"timestamp": pa.nulls(2)},
        {"timestamp": [NOW, 0]},
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


def test_labels_become_floats():
    kept, _ = judged(**{"label.a": ["+4.5", " 1e1 "], "label.b": [True, None], "label.c": [np.float16(0.5), None]})
    assert [(row["label.a"], row["label.b"], row["label.c"]) for row in kept] == [(4.5, 1.0, 0.5), (10.0, None, None)]


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
    kept, rejected = validate(raw, malformed, "logs/a.csv", NOW)
    assert kept.num_rows == 0
    assert rejected.schema == REJECTED
    rows = rejected.to_pylist()
    assert rows[0] == {"rule": "malformed_line", "source": "logs/a.csv", "row": 3, "record": "x,y,z"}
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


def test_reports_add_up():
    parts = [ValidationReport(5, 3, {"missing_user": 2}), ValidationReport(4, 1, {"missing_user": 1, "future_time": 2})]
    assert ValidationReport.total(parts) == ValidationReport(9, 4, {"missing_user": 3, "future_time": 2})
    assert ValidationReport.total([]) == ValidationReport()


# Times


@pytest.fixture
def in_tokyo(monkeypatch):
    """Let the machine be nine hours ahead: where it stands must not matter."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_unit_of_a_number_is_told_from_its_size():
    assert milliseconds(1_700_000_000, MS, MS * 1000, 0, -1, None) == [1_700_000_000_000, MS, MS, 0, -1000, None]
    assert milliseconds(1_700_000_000.5, float(MS), MS * 1000.0, float("nan")) == [MS, MS, MS, None]
    assert milliseconds("1700000000.5", str(MS), f" {MS}000 ", "1.7e9", "+5") == [MS, MS, MS, 1_700_000_000_000, 5000]
    assert milliseconds(99_999_999_999, 100_000_000_000) == [99_999_999_999_000, 100_000_000_000]
    assert milliseconds(99_999_999_999_999, 100_000_000_000_000) == [99_999_999_999_999, 100_000_000_000]
    assert milliseconds(2**63 - 1, -(2**63)) == [None, None]
    assert milliseconds(2**64 - 1, 1, kind=pa.uint64()) == [None, 1000]
    assert milliseconds("1e999", "1e-999", "-", ".", "e5", "0x10", "1_0") == [None, 0, None, None, None, None, None]


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14T22:13:20.500Z",
        "2023-11-14 22:13:20.5",
        " 2023-11-14T22:13:20.500000+00:00 ",
        "2023-11-15 00:13:20.500+02:00",
        "20231114T221320.5",
        "2023-W46-2T22:13:20.500",
    ],
)
def test_iso_text_is_utc_where_it_names_no_zone(text, in_tokyo):
    assert milliseconds(text, "1700000000") == [MS, 1_700_000_000_000]
    assert milliseconds(text.encode(), b"1700000000") == [MS, 1_700_000_000_000]


def test_a_bare_date_is_its_midnight():
    assert milliseconds("2023-11-14", "1970-01-01") == [1_699_920_000_000, 0]
    assert milliseconds("2023-13-14", "2023-11", "14/11/2023", "22:13") == [None, None, None, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_arrow_timestamps_of_every_unit_and_zone(unit, zone):
    ticks = MS * {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[unit] // 1000
    expected = MS - MS % 1000 if unit == "s" else MS
    assert milliseconds(ticks, None, kind=pa.timestamp(unit, zone)) == [expected, None]


def test_arrow_dates_and_times_out_of_this_world():
    assert milliseconds(date(2023, 11, 14), kind=pa.date32()) == [1_699_920_000_000]
    assert milliseconds(date(2023, 11, 14), kind=pa.date64()) == [1_699_920_000_000]
    for kind in (pa.timestamp("s"), pa.timestamp("ms"), pa.date32()):
        assert milliseconds(2**31 - 1 if kind == pa.date32() else 2**62, kind=kind) == [None]
    _, rejected = judged(timestamp=pa.array([2**62, 0], pa.timestamp("s")))
    assert rejected == [("unreadable_time", 7)]


@given(st.datetimes(datetime(1975, 1, 1), datetime(2100, 1, 1)))
def test_all_notations_of_a_moment_agree(moment):
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    expected = round(moment.replace(tzinfo=UTC).timestamp() * 1000)
    assert milliseconds(moment.isoformat()) == [expected]
    assert milliseconds(moment, kind=pa.timestamp("us")) == [expected]
    assert milliseconds(expected) == milliseconds(expected * 1000) == milliseconds(expected / 1000) == [expected]


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
    for name in ("user_id", "item_id", "event", "timestamp", "label.x", "label.y"):
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


@settings(max_examples=200)
@given(messy_tables())
def test_no_row_is_lost_and_only_a_users_mistake_is_raised(tables):
    raw, malformed = tables
    try:
        kept, rejected = validate(raw, malformed, "log", NOW)
    except UserError:
        assert any(pa.types.is_list(field.type) for field in raw.schema)
        return
    assert raw.num_rows + malformed.num_rows == kept.num_rows + rejected.num_rows
    lines = [row["row"] for row in rejected.to_pylist() if row["rule"] != "malformed_line"]
    assert len(set(lines)) == len(lines), "a row was rejected twice"
    for record in rejected["record"].to_pylist()[malformed.num_rows :]:
        assert set(json.loads(record)) == {"user_id", "item_id", "event", "timestamp", "label.x", "label.y"}
    for row in kept.to_pylist():
        assert row["user_id"] == row["user_id"].strip(" \t\n\r") != ""
        assert row["timestamp"] is None or abs(row["timestamp"]) <= max(NOW, 10**15)
        assert row["label.x"] is None or np.isfinite(row["label.x"])
