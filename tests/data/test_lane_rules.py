"""Duplicates and bursts, against a plain walk over the rows."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_maker import make_lane, rows_of

from raysys.data.lane_rules import duplicates, too_fast

unknown = None
values = st.fixed_dictionaries(
    {},
    optional={
        "label.rating": st.sampled_from([1.0, 2.0, -0.0, 0.0, float("nan"), unknown]),
        "number.hour": st.sampled_from([3.0, unknown]),
        "category.tab": st.sampled_from(["home", "", unknown]),
        "request_id": st.sampled_from(["r1", "r2", unknown]),
    },
)
tied_rows = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from(["buy", "view"]), st.integers(0, 2), values
    ),
    max_size=30,
)


def copies_by_hand(lane) -> list[bool]:
    seen, found = set(), []
    for user, item, event, time, extra in rows_of(lane):
        plain = {name: None if value is None or value != value else value for name, value in extra.items()}
        key = (user, item, event, time, tuple(sorted(plain.items(), key=lambda pair: pair[0])))
        found.append(key in seen)
        seen.add(key)
    return found


@given(tied_rows)
def test_later_copies_are_found_wherever_they_stand(rows):
    lane = make_lane(rows)
    assert duplicates(lane, has_time=True).tolist() == copies_by_hand(lane)


def test_the_first_copy_stays_also_when_others_stand_between():
    lane = make_lane([("u", "x", "view", 5), ("u", "y", "view", 5), ("u", "x", "view", 5), ("u", "x", "view", 6)])
    assert duplicates(lane, has_time=True).tolist() == [False, False, True, False]


def test_the_same_moment_of_two_neighbouring_users_is_no_copy():
    lane = make_lane([("a", "x", "view", 5), ("b", "x", "view", 5)])
    assert not duplicates(lane, has_time=True).any()


def test_a_log_without_times_has_no_duplicates():
    assert not duplicates(make_lane([("u", "x", "view", 0)] * 3), has_time=False).any()


def test_one_user_with_very_many_events_at_one_moment():
    count = 100_000
    lane = make_lane([("u", f"i{place % (count // 2)}", "view", 0) for place in range(count)])
    assert duplicates(lane, has_time=True).tolist() == [False] * (count // 2) + [True] * (count // 2)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.just("x"), st.just("view"), st.integers(-200_000, 200_000))),
    st.integers(1, 4),
)
def test_a_minute_with_too_many_events_of_a_user_goes_whole(rows, limit):
    lane = make_lane(rows)
    minutes = [(user, time // 60_000) for user, _, _, time, _ in rows_of(lane)]
    counts = Counter(minutes)
    assert too_fast(lane, limit).tolist() == [counts[minute] > limit for minute in minutes]


def test_a_verdict_does_not_depend_on_later_days():
    day = [("u", "x", "view", time) for time in (0, 30_000, 59_999, 60_000, 60_001)]
    alone = too_fast(make_lane(day), 2)
    later = too_fast(make_lane([*day, *[("u", "x", "view", 86_400_000 + step) for step in range(9)]]), 2)
    assert alone.tolist() == [True, True, True, False, False]
    assert later[:5].tolist() == alone.tolist()
    assert later[5:].all()


@pytest.mark.parametrize("has_time", [True, False])
def test_an_empty_lane_breaks_no_rule(has_time):
    lane = make_lane([])
    assert duplicates(lane, has_time).shape == (0,)
    assert too_fast(lane, 1).dtype == np.dtype(bool)
