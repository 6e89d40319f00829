"""Which events are held out: checked per user against the rule as one would say it."""

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.schema import Split
from raysys.data.splitting import SPLITS, GlobalTime, LeaveOneOut

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST

users_of_flags = st.lists(st.lists(st.booleans(), min_size=1, max_size=8), max_size=6)


def flat(users: list[list]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *(len(user) for user in users)])
    return offsets, np.array([value for user in users for value in user])


def leave_one_out(users: list[list[bool]], **config) -> list[list[int]]:
    offsets, flags = flat(users)
    marks = LeaveOneOut(LeaveOneOut.Config(**config)).mark(offsets, np.zeros(offsets[-1], np.int64), flags.astype(bool))
    assert marks.dtype == np.int8
    return [marks[begin:end].tolist() for begin, end in pairwise(offsets)]


def test_the_last_event_is_the_test_and_the_one_before_it_the_validation():
    assert leave_one_out([[True] * 5, [True] * 3]) == [[TRAIN, TRAIN, TRAIN, VALID, TEST], [TRAIN, VALID, TEST]]


def test_users_with_few_history_events_only_train():
    assert leave_one_out([[True, True], [True]]) == [[TRAIN, TRAIN], [TRAIN]]
    assert leave_one_out([[True, True, False, False]]) == [[TRAIN] * 4]
    assert leave_one_out([[True] * 4, [True] * 5], min_events=5) == [[TRAIN] * 4, [TRAIN] * 3 + [VALID, TEST]]
    assert leave_one_out([[True, True]], min_events=2) == [[VALID, TEST]]


def test_other_events_belong_to_the_next_history_event():
    shown, bought = False, True
    assert leave_one_out([[bought, shown, bought, shown, shown, bought, shown]]) == [
        [TRAIN, TRAIN, VALID, VALID, VALID, TEST, TEST]
    ]
    assert leave_one_out([[shown, shown]]) == [[TRAIN, TRAIN]]


@given(users_of_flags, st.integers(1, 5))
def test_leave_one_out_holds_out_one_history_event_each(users, min_events):
    for flags, marks in zip(users, leave_one_out(users, min_events=min_events), strict=True):
        held_out = [mark for flag, mark in zip(flags, marks, strict=True) if flag]
        if sum(flags) >= min_events:
            assert held_out == ([TRAIN] * 9 + [VALID, TEST])[-len(held_out) :]
        else:
            assert set(marks) <= {TRAIN}


@given(users_of_flags, st.integers(1, 5))
def test_marks_never_fall_with_leave_one_out(users, min_events):
    for marks in leave_one_out(users, min_events=min_events):
        assert marks == sorted(marks)


DAY = 86_400_000
VALID_FROM = int(datetime(2023, 12, 8, tzinfo=UTC).timestamp() * 1000)
TEST_FROM = int(datetime(2023, 12, 11, 12, tzinfo=UTC).timestamp() * 1000)


def by_time(**config) -> GlobalTime:
    return GlobalTime(GlobalTime.Config(**{"valid_from": "2023-12-08", "test_from": "2023-12-11T12:00", **config}))


def test_one_moment_counts_for_all_users():
    times = np.array([VALID_FROM - 1, VALID_FROM, TEST_FROM - 1, TEST_FROM, 0, TEST_FROM + DAY])
    marks = by_time().mark(np.array([0, 4, 6]), times, np.zeros(6, bool))
    assert marks.tolist() == [TRAIN, VALID, VALID, TEST, TRAIN, TEST]
    assert marks.dtype == np.int8


@given(st.lists(st.lists(st.integers(VALID_FROM - 2 * DAY, TEST_FROM + 2 * DAY), max_size=6).map(sorted), max_size=5))
def test_marks_never_fall_with_global_time(users):
    offsets, times = flat(users)
    marks = by_time().mark(offsets, times.astype(np.int64), np.ones(len(times), bool))
    for begin, end in pairwise(offsets):
        assert marks[begin:end].tolist() == sorted(marks[begin:end])
    expected = [TEST if t >= TEST_FROM else VALID if t >= VALID_FROM else TRAIN for t in times]
    assert marks.tolist() == expected


def test_zones_are_respected():
    early, late = "2023-12-08T00:00:00+02:00", "2023-12-11T12:00:00-02:00"
    marks = by_time(valid_from=early, test_from=late).mark(
        np.array([0, 4]),
        np.array([VALID_FROM - 7_200_001, VALID_FROM - 7_200_000, TEST_FROM, TEST_FROM + 7_200_000]),
        np.ones(4, bool),
    )
    assert marks.tolist() == [TRAIN, VALID, VALID, TEST]


@pytest.mark.parametrize("times", [("2023-12-11", "2023-12-11"), ("2023-12-12", "2023-12-11"), ("x", "2023-12-11")])
def test_moments_out_of_order_or_unreadable_are_refused(times):
    with pytest.raises(ValueError, match="valid_from"):
        by_time(valid_from=times[0], test_from=times[1])


def test_splits_are_chosen_by_kind():
    for kind, extra in (("leave_one_out", {}), ("time", {"valid_from": "2023-12-08", "test_from": "2023-12-11"})):
        config = build(IngestConfig, {"project": "p", "format": "synthetic", "split": {"kind": kind, **extra}}, "here")
        assert SPLITS[config.split.kind].needs_time == (kind == "time")
    assert build(IngestConfig, {"project": "p", "format": "synthetic"}, "here").split == LeaveOneOut.Config()
