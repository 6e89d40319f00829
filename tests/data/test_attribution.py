"""Label joins, against a plain loop over outcomes and impressions."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_maker import make_lane, rows_of
from pydantic import ValidationError

from raysys.data.attribution import LabelJoin, attribute, horizons
from raysys.errors import UserError

JOIN = LabelJoin(on="show", event="buy", within="10ms")
NAMES = ("buy", "show")


def labels(rows, log_end_ms: int, join: LabelJoin = JOIN) -> list[float | None]:
    """Label the rows, which are given in the lane's order."""
    lane = make_lane(rows, event_names=NAMES)
    column = attribute(lane, join, "buy", np.full(len(lane), log_end_ms))
    assert column.type == pa.float32()
    return column.to_pylist()


def by_hand(lane, join: LabelJoin, log_end_ms: int) -> list[float | None]:
    rows = rows_of(lane)
    found = [0.0 if event == join.on and time + join.within <= log_end_ms else None for _, _, event, time, _ in rows]
    for user, item, event, time, extra in rows:
        if event != join.event:
            continue
        fits = [
            place
            for place, (other, thing, kind, before, _) in enumerate(rows)
            if (other, thing, kind) == (user, item, join.on) and before <= time <= before + join.within
        ]
        request = extra.get("request_id")
        same = [place for place in fits if request is not None and rows[place][4].get("request_id") == request]
        if (chosen := same or fits) and time <= log_end_ms:
            found[chosen[-1] if join.attribute == "last" else chosen[0]] = 1.0
    return found


requests = st.fixed_dictionaries({}, optional={"request_id": st.sampled_from(["r1", "r2", "r3", None])})
logs = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from("xy"),
        st.sampled_from(["buy", "show", "click"]),
        st.integers(0, 12),
        requests,
    ),
    max_size=40,
)


@given(logs, st.sampled_from(["last", "first"]), st.integers(1, 8), st.integers(0, 20))
def test_labels_equal_those_of_a_plain_loop(rows, which, within, log_end_ms):
    join = LabelJoin(on="show", event="buy", within=f"{within}ms", attribute=which)
    lane = make_lane(rows, event_names=NAMES)
    assert attribute(lane, join, "buy", np.full(len(lane), log_end_ms)).to_pylist() == by_hand(lane, join, log_end_ms)


def test_the_newest_impression_gets_it_or_the_oldest():
    rows = [("u", "x", "show", 1), ("u", "x", "show", 2), ("u", "x", "buy", 3)]
    assert labels(rows, 100) == [0, 1, None]
    oldest = LabelJoin(on="show", event="buy", within="10ms", attribute="first")
    assert labels(rows, 100, oldest) == [1, 0, None]


def test_the_request_decides_before_the_time_does():
    first, second, other = ({"request_id": name} for name in ("r1", "r2", "r9"))
    shown = [("u", "x", "show", 1, first), ("u", "x", "show", 2, second)]
    assert labels([*shown, ("u", "x", "buy", 3, first)], 100) == [1, 0, None]
    assert labels([*shown, ("u", "x", "buy", 3, other)], 100) == [0, 1, None]
    assert labels([*shown, ("u", "x", "buy", 3)], 100) == [0, 1, None]
    assert labels([*shown, ("u", "x", "buy", 12, first)], 100) == [0, 1, None]  # r1 is too old by then


def test_an_open_window_is_unknown_and_an_outcome_in_it_is_known():
    rows = [("u", "x", "show", 90), ("u", "y", "show", 91), ("u", "z", "show", 92), ("u", "z", "buy", 93)]
    assert labels(rows, 100) == [0, None, 1, None]


def test_an_outcome_of_the_same_millisecond_counts_as_after():
    assert labels([("u", "x", "buy", 5), ("u", "x", "show", 5)], 100) == [None, 1]
    assert labels([("u", "x", "buy", 4), ("u", "x", "show", 5)], 100) == [None, 0]


def test_nothing_crosses_users_or_items():
    rows = [("a", "x", "show", 1), ("b", "x", "buy", 2), ("b", "y", "show", 1)]
    assert labels(sorted(rows), 100) == [0, 0, None]


def test_one_user_with_very_many_events():
    count = 100_000
    rows = [("u", f"i{place % 7}", "buy" if place % 10 == 9 else "show", place) for place in range(count)]
    found = np.array(labels(rows, 4 * count, LabelJoin(on="show", event="buy", within=f"{2 * count}ms")), float)
    shown = np.arange(count) % 10 != 9
    assert np.isnan(found[~shown]).all()
    assert not np.isnan(found[shown]).any()
    last = {}
    received = set()
    for place, (_, item, event, _) in enumerate(rows):
        if event == "buy" and item in last:
            received.add(last[item])
        elif event == "show":
            last[item] = place
    assert set(np.flatnonzero(found == 1)) == received


def test_a_misspelt_event_is_told():
    lane = make_lane([("u", "x", "show", 1), ("u", "x", "buy", 2)])
    with pytest.raises(UserError, match=r"labels.purchase: no event is called 'shwo'; did you mean 'show'"):
        attribute(lane, LabelJoin(on="shwo", event="buy", within="1d"), "purchase", np.full(len(lane), 9))
    with pytest.raises(UserError, match="no event is called 'purchase'"):
        attribute(lane, LabelJoin(on="show", within="1d"), "purchase", np.full(len(lane), 9))
    with pytest.raises(UserError, match="its own label"):
        attribute(lane, LabelJoin(on="show", within="1d"), "show", np.full(len(lane), 9))


@pytest.mark.parametrize("node", [{"event": "show"}, {"within": "0s"}, {"within": "soon"}, {"attribute": "all"}])
def test_a_join_that_means_nothing_is_refused(node):
    with pytest.raises(ValidationError):
        LabelJoin(**{"on": "show", "within": "7d", **node})


def test_a_lane_without_events():
    assert labels([], 5) == []


def test_no_label_of_training_looks_into_a_later_period():
    rows = [("u", "x", "show", 1), ("u", "x", "buy", 12), ("u", "y", "show", 3), ("u", "z", "show", 11)]
    lane = make_lane(rows, event_names=NAMES)
    marks = (lane.times >= 10).astype(np.int8)  # validation begins at 10
    until = horizons(lane, marks, 100, (10, 50))
    assert until.tolist() == [9, 9, 49, 49]
    found = dict(zip([row[1:3] for row in rows_of(lane)], attribute(lane, JOIN, "buy", until).to_pylist(), strict=True))
    long = LabelJoin(on="show", event="buy", within="20ms")
    assert attribute(lane, long, "buy", until).to_pylist()[:2] == [None, None], "bought, but only validation knows"
    assert found["y", "show"] is None, "its window ends at 13, in validation"
    assert found["z", "show"] == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=25), st.integers(0, 2**32 - 1))
def test_horizons_end_where_a_users_next_period_begins(rows, seed):
    lane = make_lane([(user, "x", "show", time) for user, time in rows])
    generator = np.random.default_rng(seed)
    marks = np.zeros(len(lane), np.int8)
    for first, last in zip(lane.offsets, lane.offsets[1:], strict=False):
        marks[first:last] = np.sort(generator.integers(-1, 3, last - first))
    found = horizons(lane, marks, 1000, None)
    for place, owner in enumerate(lane.owner):
        later = [lane.times[at] for at in range(len(lane)) if lane.owner[at] == owner and marks[at] > marks[place]]
        assert found[place] == (min(later) - 1 if later else 1000)
