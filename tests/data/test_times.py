"""Durations, moments, and times of logs in every notation."""

import time
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raysys.component import FrozenConfig
from raysys.data.times import Duration, detect_unit, milliseconds, to_milliseconds
from raysys.errors import UserError

MS = 1_700_000_000_500


def column(*values, kind=None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def read(*values, unit, kind=None, known=True) -> list[int | None]:
    found = to_milliseconds(column(*values, kind=kind), unit, known)
    assert found.type == pa.int64()
    return found.to_pylist()


def unit_of(*values, kind=None) -> str | None:
    return detect_unit(column(*values, kind=kind), "log")


# Durations and moments


class Window(FrozenConfig):
    within: Duration = 60_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", 604_800_000),
        ("12h", 43_200_000),
        ("30m", 1_800_000),
        ("45s", 45_000),
        ("500ms", 500),
        ("1.5 h", 5_400_000),
    ],
)
def test_durations_are_milliseconds(text, expected):
    window = Window(within=text)
    assert window.within == expected
    assert Window.model_validate(window.model_dump(mode="json")) == window
    assert Window.model_validate(window.model_dump()) == window


@given(st.integers(0, 10**12))
def test_durations_survive_being_written(length):
    window = Window.model_construct(within=length)
    assert Window.model_validate(window.model_dump(mode="json")).within == length


@pytest.mark.parametrize("value", ["7", 7, "d", "-1d", "7 days", None, "1e3s", True])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValidationError, match="is no duration; write a number and a unit: 7d"):
        Window(within=value)


def test_moments_are_utc_where_they_name_no_zone(in_tokyo):
    assert milliseconds(datetime(2023, 11, 14, 22, 13, 20, 500_999)) == MS
    assert milliseconds(datetime(2023, 11, 15, 0, 13, 20, 500_000, timezone(timedelta(hours=2)))) == MS
    assert milliseconds(datetime(1969, 12, 31, 23, 59, 59, 999_500, UTC)) == -1


@pytest.fixture
def in_tokyo(monkeypatch):
    """Let the machine be nine hours ahead: where it stands must not matter."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# Units


@pytest.mark.parametrize(
    ("unit", "low", "high"),
    [("s", 10**8, 10**10), ("ms", 10**11, 10**13), ("us", 10**14, 10**16), ("ns", 10**17, 9 * 10**18)],
)
def test_units_are_told_from_the_size_of_numbers(unit, low, high):
    for value in (low, high, (low + high) // 3):
        assert unit_of(value, None) == unit
        assert unit_of(0, -1, value) == unit, "what is not positive says nothing"
        assert unit_of(str(value), " ") == unit
        assert unit_of(float(value)) == unit
        assert unit_of(str(value).encode()) == unit


def test_times_and_logs_without_times_are_told_by_type():
    assert unit_of(0, kind=pa.timestamp("s")) == "arrow"
    assert unit_of(date(2023, 1, 1)) == "arrow"
    assert unit_of(None, None) is None
    assert unit_of(None, kind=pa.int64()) is None
    assert unit_of("2023-11-14", "2023-11-14T22:13:20+02:00") == "iso"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([20231005, 20231006], "20231005 and 20231006"),
        ([17, 18, 19], "17 and 18"),
        ([5 * 10**10], "50000000000"),
        (["17", "18"], "'17' and '18'"),
        ([1_700_000_000, 1_700_000_001, MS], f"1700000000 and {MS}"),
        (["1700000000", "1700000000", "2023-11-14"], "'1700000000' and '2023-11-14'"),
        (["14/11/2023", "15/11/2023"], "'14/11/2023' and '15/11/2023'"),
        (["later", "never", "1700000000"], "'later' and '1700000000'"),
    ],
)
def test_what_could_be_several_units_is_refused_with_examples(values, shown):
    with pytest.raises(UserError, match=r"^log: the unit of these times .* set columns\.time_unit") as error:
        unit_of(*values)
    assert shown in str(error.value)
    with pytest.raises(UserError, match="holds bool values"):
        unit_of(True)


def test_a_little_garbage_leaves_the_unit_clear():
    assert unit_of(*[1_700_000_000] * 199, 20231005) == "s"
    with pytest.raises(UserError):
        unit_of(*[1_700_000_000] * 99, 20231005)
    assert unit_of("1700000000", "1700000000", "later", "") == "s", "the rows of such text will be rejected"
    assert unit_of(*["2023-11-14"] * 3, "soon") == "iso"


def test_the_sample_is_taken_from_the_whole_column():
    values = np.full(200_000, 1_700_000_000)
    values[150_000:] = MS
    with pytest.raises(UserError):
        detect_unit(pa.chunked_array([values[:70_000], values[70_000:]]), "log")


# Numbers


@pytest.mark.parametrize(("unit", "factor"), [("s", 1000), ("ms", 1), ("us", 1 / 1000), ("ns", 1 / 1_000_000)])
def test_numbers_of_every_unit_and_type(unit, factor):
    ticks = int(MS / factor)
    expected = int(ticks * factor)
    assert read(ticks, None, unit=unit) == [expected, None]
    assert read(str(ticks), f" {ticks} ", f"+{ticks}", "x", "", None, unit=unit) == [expected] * 3 + [None] * 3
    assert read(str(ticks).encode(), b"\xff", unit=unit) == [expected, None]
    assert read(float(ticks), float("nan"), float("inf"), unit=unit) == [expected, None, None]
    assert read(ticks, unit=unit, kind=pa.uint64()) == [expected]
    assert read(0, -1, 5, unit=unit) == [0, None, int(5 * factor)]
    assert read(0, -1, 5, unit=unit, known=False) == [None, None, None], "of another size than the detected unit's"
    assert read(ticks, 5, unit=unit, known=False) == [expected, None]
    assert read(str(ticks), "5", unit=unit, known=False) == [expected, None]


def test_fractions_are_rounded_down_and_survive_doubles():
    assert read(1_700_000_000.123, 1_700_000_000.9999, unit="s") == [1_700_000_000_123, 1_700_000_000_999]
    assert read("1700000000.5", "1.7e9", unit="s") == [MS, MS - 500]
    assert read(MS * 1000 + 999, unit="us") == [MS]


def test_times_out_of_this_world_are_null():
    assert read(2**63 - 1, 1, unit="s") == [None, 1000]
    assert read(2**63 - 1, -(2**63), unit="ms") == [None, None]
    assert read("1e999", "0x10", "1_0", "nan", unit="s") == [None] * 4
    assert read(2**64 - 1, 1, unit="s", kind=pa.uint64()) == [None, 1000]
    for kind in (pa.timestamp("s"), pa.timestamp("ms"), pa.date32()):
        assert read(2**31 - 1 if kind == pa.date32() else 2**62, unit="arrow", kind=kind) == [None]


def test_columns_that_are_no_times_are_null():
    assert read(None, None, unit="s") == [None, None]
    assert read(1_700_000_000, unit=None) == [None]
    assert read("1700000000", unit="iso") == [None]
    assert read("2023-11-14", unit="s") == [None]
    assert read(True, unit="s") == [None]
    assert to_milliseconds(pa.chunked_array([], pa.string()), "iso").to_pylist() == []


# ISO text and Arrow times


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14T22:13:20.500Z",
        "2023-11-14 22:13:20.5",
        "2023-11-14 22:13:20.500999999",
        " 2023-11-14T22:13:20.500000+00:00 ",
        "2023-11-15 00:13:20.500+02:00",
        "20231114T221320.5",
        "2023-W46-2T22:13:20.500",
    ],
)
def test_iso_text_is_utc_where_it_names_no_zone(text, in_tokyo):
    others = ["2023-11-14", "2023-11-14T00:00Z", "2023-13-14", "14/11/2023", "22:13", "", None]
    day = 1_699_920_000_000
    assert read(text, unit="iso") == [MS]
    assert read(text, *others, unit="iso") == [MS, day, day, None, None, None, None, None]
    assert read(text.encode(), b"\xff", unit="iso") == [MS, None]


def test_whole_dates_as_numbers_are_iso_where_said_so():
    assert read(20231114, 20231399, unit="iso") == [1_699_920_000_000, None]


def test_one_bad_text_changes_no_other():
    texts = [f"2023-11-14 00:00:{n % 60:02}" for n in range(100_000)]
    expected = [1_699_920_000_000 + n % 60 * 1000 for n in range(100_000)]
    texts[70_000], expected[70_000] = "x", None
    assert read(*texts, unit="iso") == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_arrow_timestamps_of_every_unit_and_zone(unit, zone):
    ticks = MS * {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[unit] // 1000
    expected = MS - MS % 1000 if unit == "s" else MS
    assert read(ticks, None, unit="arrow", kind=pa.timestamp(unit, zone)) == [expected, None]
    assert read(ticks, unit="iso", kind=pa.timestamp(unit, zone)) == [expected], "the type is never in doubt"


def test_arrow_times_before_1970_are_rounded_down():
    assert read(-1, -1000, -1001, unit="arrow", kind=pa.timestamp("us")) == [-1, -1, -2]
    assert read(date(2023, 11, 14), date(1969, 12, 31), unit="arrow") == [1_699_920_000_000, -86_400_000]
    assert read(date(2023, 11, 14), unit="arrow", kind=pa.date64()) == [1_699_920_000_000]


@given(st.datetimes(datetime(1975, 1, 1), datetime(2200, 1, 1)))
def test_all_notations_of_a_moment_agree(moment):
    expected = (moment - datetime(1970, 1, 1)) // timedelta(milliseconds=1)
    ticks = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert milliseconds(moment) == expected
    assert read(moment.isoformat(), moment.isoformat() + "Z", unit="iso") == [expected, expected]
    assert read(moment, unit="arrow", kind=pa.timestamp("us")) == [expected]
    assert read(ticks, unit="us") == read(ticks * 1000, unit="ns") == read(str(ticks), unit="us") == [expected]
    assert read(expected / 1000, unit="s") == read(expected, unit="ms") == [expected]
    whole = moment.replace(microsecond=0)
    assert unit_of(int(whole.replace(tzinfo=UTC).timestamp())) == "s"
