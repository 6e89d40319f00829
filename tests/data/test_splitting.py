"""Which events are held out: checked per user against the rule as one would say it."""

from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Annotated

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_maker import make_lane, rows_of
from pydantic import TypeAdapter, ValidationError

from raysys.component import FrozenConfig, OneOf
from raysys.data.hashing import hash_ids, share_of
from raysys.data.lanes import LaneEvents
from raysys.data.schema import Split
from raysys.data.splitting import SPLITS, GlobalTime, ItemHeldOut, LeaveOneOut, Ratio, UserHeldOut
from raysys.errors import UserError

GIVEN, TRAIN, VALID, TEST = Split.GIVEN, Split.TRAIN, Split.VALID, Split.TEST
HOUR, DAY = 3_600_000, 86_400_000

users_of_flags = st.lists(st.lists(st.booleans(), min_size=1, max_size=8), max_size=6)


def of_flags(users: list[list[bool]]) -> LaneEvents:
    """One event per flag and user, true where it is a history event."""
    rows = [
        (f"u{user:04}", f"i{place}", "buy" if flag else "show", place)
        for user, flags in enumerate(users)
        for place, flag in enumerate(flags)
    ]
    return make_lane(rows, {"buy"})


def per_user(lane: LaneEvents, marks: np.ndarray) -> list[list[int]]:
    assert marks.dtype == np.int8
    assert marks.shape == (len(lane),)
    return [marks[begin:end].tolist() for begin, end in pairwise(lane.offsets)]


def leave_one_out(users: list[list[bool]], **config) -> list[list[int]]:
    lane = of_flags(users)
    return per_user(lane, LeaveOneOut(LeaveOneOut.Config(**config)).mark(lane))


def ratio(users: list[list[bool]], **config) -> list[list[int]]:
    lane = of_flags(users)
    return per_user(lane, Ratio(Ratio.Config(**config)).mark(lane))


# Per user, by order


def test_the_last_event_is_the_test_and_the_one_before_it_the_validation():
    assert leave_one_out([[True] * 5, [True] * 3]) == [[TRAIN, TRAIN, TRAIN, VALID, TEST], [TRAIN, VALID, TEST]]


def test_users_with_few_history_events_only_train():
    assert leave_one_out([[True, True], [True]]) == [[TRAIN, TRAIN], [TRAIN]]
    assert leave_one_out([[True, True, False, False]]) == [[TRAIN] * 4]
    assert leave_one_out([[True] * 4, [True] * 5], min_events=5) == [[TRAIN] * 4, [TRAIN] * 3 + [VALID, TEST]]
    assert leave_one_out([[True, True]], min_events=2) == [[VALID, TEST]]


@pytest.mark.parametrize("split", [leave_one_out, ratio])
def test_other_events_belong_to_the_history_event_before_them(split):
    shown, bought = False, True
    assert split([[bought, shown, bought, shown, shown, bought, shown]]) == [
        [TRAIN, TRAIN, VALID, VALID, VALID, TEST, TEST]
    ]
    assert split([[shown, shown]]) == [[TRAIN, TRAIN]]


@given(users_of_flags, st.integers(1, 5))
def test_leave_one_out_holds_out_one_history_event_each(users, min_events):
    for flags, marks in zip(users, leave_one_out(users, min_events=min_events), strict=True):
        held_out = [mark for flag, mark in zip(flags, marks, strict=True) if flag]
        assert marks == sorted(marks)
        if sum(flags) >= min_events:
            assert held_out == ([TRAIN] * 9 + [VALID, TEST])[-len(held_out) :]
        else:
            assert set(marks) <= {TRAIN}


def test_a_ratio_rounds_to_whole_events():
    marks = ratio([[True] * 20], valid_share=0.25, test_share=0.1)
    assert marks == [[TRAIN] * 13 + [VALID] * 5 + [TEST] * 2]
    assert ratio([[True] * 3], valid_share=0.6, test_share=0.3) == [[TRAIN, VALID, TEST]]


@given(users_of_flags, st.integers(3, 5), st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_a_ratio_leaves_every_long_user_an_event_of_each_part(users, min_events, valid, test):
    found = ratio(users, min_events=min_events, valid_share=valid, test_share=test)
    for flags, marks in zip(users, found, strict=True):
        history = [mark for flag, mark in zip(flags, marks, strict=True) if flag]
        assert marks == sorted(marks)
        if len(history) >= min_events:
            assert set(history) == {TRAIN, VALID, TEST}
            assert abs(history.count(TEST) - len(history) * test) <= 1
            assert abs(history.count(VALID) - len(history) * valid) <= 1.5
        else:
            assert set(marks) <= {TRAIN}


# By time

VALID_FROM = int(datetime(2023, 12, 8, tzinfo=UTC).timestamp() * 1000)
TEST_FROM = int(datetime(2023, 12, 11, 12, tzinfo=UTC).timestamp() * 1000)


def by_time(**config) -> GlobalTime:
    return GlobalTime(GlobalTime.Config(**{"valid_from": "2023-12-08", "test_from": "2023-12-11T12:00", **config}))


def of_times(users: list[list[int]]) -> LaneEvents:
    return make_lane([(f"u{user}", "x", "buy", time) for user, times in enumerate(users) for time in times], set())


def test_one_moment_counts_for_all_users():
    lane = of_times([[VALID_FROM - 1, VALID_FROM, TEST_FROM - 1, TEST_FROM], [0, TEST_FROM + DAY]])
    assert per_user(lane, by_time().mark(lane)) == [[TRAIN, VALID, VALID, TEST], [TRAIN, TEST]]


@given(st.lists(st.lists(st.integers(VALID_FROM - 2 * DAY, TEST_FROM + 2 * DAY), max_size=6), max_size=5))
def test_time_alone_decides(users):
    lane = of_times(users)
    expected = [TEST if t >= TEST_FROM else VALID if t >= VALID_FROM else TRAIN for t in lane.times]
    assert by_time().mark(lane).tolist() == expected


def test_zones_are_respected_and_a_date_is_a_moment():
    zoned = by_time(valid_from="2023-12-08T00:00:00+02:00", test_from="2023-12-11T12:00:00-02:00")
    lane = of_times([[VALID_FROM - 2 * HOUR - 1, VALID_FROM - 2 * HOUR, TEST_FROM, TEST_FROM + 2 * HOUR]])
    assert zoned.mark(lane).tolist() == [TRAIN, VALID, VALID, TEST]
    assert by_time(valid_from=date(2023, 12, 8)).config == by_time().config


@pytest.mark.parametrize("times", [("2023-12-11", "2023-12-11"), ("2023-12-12", "2023-12-11"), ("x", "2023-12-11")])
def test_moments_out_of_order_or_unreadable_are_refused(times):
    with pytest.raises(ValidationError, match="valid_from"):
        by_time(valid_from=times[0], test_from=times[1])


@pytest.mark.parametrize("missing", ["valid_from", "test_from"])
def test_one_date_alone_is_refused(missing):
    with pytest.raises(ValidationError, match=f"{missing} is missing"):
        by_time(**{missing: None})


@pytest.mark.parametrize("kind", ["time", "ratio", "item_held_out", "user_held_out"])
def test_shares_leave_something_to_train_on(kind):
    with pytest.raises(ValidationError, match="must be below 1"):
        SPLITS[kind].Config(valid_share=0.5, test_share=0.5)


def test_dates_are_found_from_the_shares():
    hour = VALID_FROM // HOUR
    histogram = {hour + place: 10 for place in range(100)} | {hour + 500: 0}
    config = GlobalTime(GlobalTime.Config(valid_share=0.2, test_share=0.101)).resolve(histogram)
    assert config.valid_from == datetime.fromtimestamp((hour + 70) * 3600, UTC)
    assert config.test_from == datetime.fromtimestamp((hour + 90) * 3600, UTC)
    assert GlobalTime(config).resolve({0: 1}) == config


def test_dates_that_are_given_stay():
    assert by_time().resolve({1: 5, 2: 5, 3: 5}) == by_time().config


@pytest.mark.parametrize("histogram", [{}, {5: 10}, {5: 10, 6: 10}, {5: 10, 6: 10, 7: 0}, {5: 1, 6: 1, 7: 1000}])
def test_a_log_without_enough_hours_is_told_what_to_do(histogram):
    with pytest.raises(UserError, match=r"valid_from and test_from, or choose kind: leave_one_out or ratio"):
        GlobalTime(GlobalTime.Config()).resolve(histogram)


@given(st.dictionaries(st.integers(0, 60), st.integers(0, 50)), st.floats(0.02, 0.4), st.floats(0.02, 0.4))
def test_resolved_periods_are_never_empty(histogram, valid_share, test_share):
    split = GlobalTime(GlobalTime.Config(valid_share=valid_share, test_share=test_share))
    try:
        config = split.resolve(histogram)
    except UserError:
        return
    lane = of_times([[hour * HOUR for hour, count in histogram.items() for _ in range(count)]])
    marks = GlobalTime(config).mark(lane)
    assert set(marks.tolist()) == {TRAIN, VALID, TEST}
    assert (marks == TRAIN).mean() >= (1 - valid_share - test_share) / 2 - 1e-9


def test_marking_needs_the_dates():
    with pytest.raises(ValueError, match="resolve"):
        GlobalTime(GlobalTime.Config()).mark(of_times([[1]]))


# Held-out items and users


def item_held_out(**config) -> ItemHeldOut:
    return ItemHeldOut(ItemHeldOut.Config(valid_from="2023-12-08", test_from="2023-12-11T12:00", **config))


def test_training_never_sees_a_held_out_item():
    moments = (VALID_FROM - 1, VALID_FROM, TEST_FROM)
    lane = make_lane([("u", f"item-{item}", "buy", time) for item in range(2000) for time in moments])
    split = item_held_out(share=0.2)
    dropped, marks = split.drop(lane), split.mark(lane)
    assert (marks[dropped] == TRAIN).all()
    assert 300 < dropped.sum() < 500
    unseen = set(lane.items[dropped])
    assert not unseen & set(lane.items[(marks == TRAIN) & ~dropped])
    assert unseen <= set(lane.items[marks == VALID])
    other = item_held_out(share=0.2, seed=1).drop(lane)
    assert 0 < (dropped & other).sum() < dropped.sum() / 2


def test_an_item_is_held_out_in_every_lane_or_in_none():
    def held_out(user):
        lane = make_lane([(user, f"item-{item}", "buy", 1) for item in range(0, 300, 1 + (user == "b"))])
        dropped = item_held_out().drop(lane)
        return {row[1] for row, out in zip(rows_of(lane), dropped, strict=True) if out}

    even = {f"item-{item}" for item in range(0, 300, 2)}
    assert held_out("b") == held_out("a") & even


def user_held_out(users: list[list[bool]], **config) -> list[list[int]]:
    lane = of_flags(users)
    return per_user(lane, UserHeldOut(UserHeldOut.Config(**config)).mark(lane))


def test_shares_of_the_users_are_held_out():
    found = user_held_out([[True] * 10] * 2000, valid_share=0.1, test_share=0.2, given=0.7)
    valid, test = [GIVEN] * 7 + [VALID] * 3, [GIVEN] * 7 + [TEST] * 3
    assert 140 < found.count(valid) < 260
    assert 320 < found.count(test) < 480
    assert found.count([TRAIN] * 10) + found.count(valid) + found.count(test) == 2000
    assert found != user_held_out([[True] * 10] * 2000, valid_share=0.1, test_share=0.2, given=0.7, seed=1)


def test_the_held_out_users_are_spread_over_all_lanes_and_samples():
    found = user_held_out([[True] * 3] * 4000, valid_share=0.1, test_share=0.1)
    place = share_of(hash_ids(pa.array([f"u{user:04}" for user in range(4000)])))
    held_out = np.array([TRAIN not in marks for marks in found])
    for tenth in range(10):
        chosen = (place >= tenth / 10) & (place < (tenth + 1) / 10)
        assert 0.1 < held_out[chosen].mean() < 0.3


@given(users_of_flags, st.floats(0.05, 0.95))
def test_of_a_held_out_user_the_first_events_are_given(users, share):
    for flags, marks in zip(users, user_held_out(users, valid_share=0.49, test_share=0.5, given=share), strict=True):
        history = [mark for flag, mark in zip(flags, marks, strict=True) if flag]
        assert marks == sorted(marks)
        if TRAIN in marks:
            assert set(marks) == {TRAIN}
        elif len(history) < 2:
            assert set(marks) == {GIVEN}
        else:
            assert history[0] == GIVEN
            assert history[-1] in (VALID, TEST)
            assert abs(history.count(GIVEN) - share * len(history)) <= 1


# The registry


def test_splits_are_chosen_by_kind():
    choice = TypeAdapter(Annotated[FrozenConfig, OneOf(SPLITS, default="time")])
    for kind in SPLITS:
        assert choice.validate_python({"kind": kind}).kind == kind
    assert choice.validate_python({}) == GlobalTime.Config()
    assert {kind for kind, part in SPLITS.items() if part.needs_time} == {"time", "item_held_out"}
