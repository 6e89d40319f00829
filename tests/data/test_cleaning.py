"""Cleaning: what goes, why, and that every event is counted; the k-core over lanes equals that of one table."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_maker import make_lane, rows_of
from pydantic import ValidationError

from raysys.data.cleaning import CleanConfig, KCore, clean, k_core_round, rare_items
from raysys.errors import UserError

HISTORY = {"buy", "click"}


def story(*events: str, user: str = "u") -> list[tuple]:
    """Rows of one user from words like `buy:x`, one per millisecond."""
    return [(user, event.split(":")[1], event.split(":")[0], time) for time, event in enumerate(events, 1)]


def cleaned(rows, **config) -> tuple[list[str], dict[str, int]]:
    lane = make_lane(rows, HISTORY)
    after, counts = clean(lane, CleanConfig(**config))
    assert len(lane) == len(after) + sum(counts.values())
    return [f"{event}:{item}" for _, item, event, _, _ in rows_of(after)], counts


def test_nothing_is_left_out_by_default():
    rows = story("buy:x", "buy:x", "show:y")
    assert cleaned(rows) == (["buy:x", "buy:x", "show:y"], {})


def test_of_repeats_the_first_stays():
    rows = story("buy:x", "show:y", "buy:x", "buy:x", "click:x", "buy:x", "show:z", "show:z")
    stays = ["buy:x", "show:y", "click:x", "buy:x", "show:z", "show:z"]
    assert cleaned(rows, collapse_repeats=True) == (stays, {"repeat": 2})
    assert cleaned(story("buy:x") + story("buy:x", user="v"), collapse_repeats=True)[1] == {}


def test_short_users_go_with_all_their_events():
    rows = story("buy:x", "click:y") + story("buy:x", "show:x", "show:y", user="v")
    assert cleaned(rows, min_user_events=2) == (["buy:x", "click:y"], {"short_user": 3})


def test_the_newest_events_stay():
    rows = story("buy:x", "show:y", "buy:z") + story("buy:x", user="v")
    assert cleaned(rows, max_history=2) == (["show:y", "buy:z", "buy:x"], {"beyond_max_history": 1})
    assert CleanConfig().max_history == 10_000


def test_the_order_is_repeats_then_short_users_then_the_newest():
    rows = story("buy:x", "buy:x") + story("buy:x", "buy:y", "buy:z", user="v")
    expected = {"repeat": 1, "short_user": 1, "beyond_max_history": 1}
    assert cleaned(rows, collapse_repeats=True, min_user_events=2, max_history=2) == (["buy:y", "buy:z"], expected)


@pytest.mark.parametrize("name", ["hour", "number.hour"])
def test_missing_numbers_are_filled(name):
    rows = [("u", "x", "buy", 1, {"number.hour": None}), ("u", "x", "buy", 2, {"number.hour": 3.0})]
    lane, counts = clean(make_lane(rows), CleanConfig(fill={name: 12}))
    assert lane.columns["number.hour"].equals(pa.array([12, 3], pa.float32()))
    assert counts == {}


def test_a_number_that_the_log_lacks_is_told():
    lane = make_lane([("u", "x", "buy", 1, {"number.hour": 1.0})])
    with pytest.raises(UserError, match="no number 'huor'; did you mean 'hour'"):
        clean(lane, CleanConfig(fill={"huor": 0}))


@pytest.mark.parametrize(
    "node", [{"k_core": {"users": 0, "items": 1}}, {"max_history": 0}, {"min_user_events": -1}, {"fill": {"x": "nan"}}]
)
def test_settings_that_mean_nothing_are_refused(node):
    with pytest.raises(ValidationError):
        CleanConfig(**node)


def over_lanes(lanes, config: CleanConfig, is_train) -> tuple[set, int]:
    """Run the documented loop; return the rows that stay in all lanes, and how many went."""
    masks = [is_train(lane.times) for lane in lanes]
    excluded, grown = None, True
    while grown:
        counts = [k_core_round(lane, config, excluded, mask) for lane, mask in zip(lanes, masks, strict=True)]
        excluded, grown = rare_items(counts, config.k_core, excluded)
    stays, gone = [], 0
    for lane, mask in zip(lanes, masks, strict=True):
        after, reasons = clean(lane, config, excluded, mask)
        stays += [row[:4] for row in rows_of(after)]
        gone += sum(reasons.values())
    return sorted(stays), gone


def plain_k_core(rows, users: int, items: int, is_train) -> list[tuple]:
    """Drop rare items and short users of one table until nothing changes."""
    table = pd.DataFrame(rows, columns=["user", "item", "event", "time"])
    while True:
        counted = table[table.event.isin(HISTORY) & is_train(table.time)]
        per_user, per_item = counted.groupby("user").size(), counted.groupby("item").size()
        enough = (table.user.map(per_user).fillna(0) >= users) & (table.item.map(per_item).fillna(0) >= items)
        if enough.all():
            return sorted(table.itertuples(index=False, name=None))
        table = table[enough]


logs = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.sampled_from("uvwxyz"),
        st.sampled_from(["buy", "click", "show"]),
        st.integers(0, 9),
    ),
    max_size=60,
)


@given(logs, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(5, 10))
def test_a_k_core_over_lanes_equals_that_of_one_table(rows, users, items, num_lanes, train_end):
    def is_train(times):
        return times < train_end

    lanes = [make_lane([row for row in rows if ord(row[0]) % num_lanes == lane], HISTORY) for lane in range(num_lanes)]
    config = CleanConfig(k_core=KCore(users=users, items=items), max_history=None)
    stays, gone = over_lanes(lanes, config, is_train)
    assert stays == plain_k_core(rows, users, items, is_train)
    assert len(stays) + gone == len(rows)


def test_a_k_core_falls_like_dominoes():
    rows = [(user, item, "buy", 1) for user, item in ("ax", "ay", "by", "bz", "cz", "cw", "dw")]
    config = CleanConfig(k_core=KCore(users=2, items=2))
    lanes = [make_lane([row for row in rows if row[0] in half]) for half in ("ab", "cd")]
    assert over_lanes(lanes, config, lambda times: times < 5) == ([], 7)
    ring = [(user, item, "buy", 1) for user, item in ("ax", "ay", "bx", "by", "bz")]
    stays, gone = over_lanes([make_lane(ring)], config, lambda times: times < 5)
    assert [row[1] for row in stays] == ["x", "y", "x", "y"]
    assert gone == 1


def test_repeats_are_collapsed_before_the_core_is_counted():
    lane = make_lane(story("buy:x", "buy:x", "buy:y"))
    config = CleanConfig(collapse_repeats=True, k_core=KCore(users=1, items=2))
    assert k_core_round(lane, config).to_pydict() == {"item_id": ["x", "y"], "count": [1, 1]}


@given(
    logs, st.booleans(), st.integers(0, 3), st.none() | st.integers(1, 4), st.lists(st.sampled_from("uvw"), unique=True)
)
def test_every_event_is_kept_or_counted(rows, collapse, short, most, out):
    config = CleanConfig(
        collapse_repeats=collapse, min_user_events=short, max_history=most, k_core=KCore(users=2, items=1)
    )
    lane = make_lane(rows, HISTORY)
    train = lane.times < 6
    after, counts = clean(lane, config, pa.array(sorted(out), pa.string()), train)
    assert len(lane) == len(after) + sum(counts.values())
    assert all(count > 0 for count in counts.values())
    assert not {row[1] for row in rows_of(after)} & set(out)
    assert most is None or (np.diff(after.offsets) <= most).all()
    stays = after.columns["position"].to_pylist()
    assert [place for place in lane.columns["position"].to_pylist() if place in stays] == stays
