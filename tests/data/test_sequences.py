"""Events gathered per user, compared with what pandas finds by plain grouping."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.data.schema import Split, events_schema, sequences_schema
from raysys.data.sequences import count_marks, encode_users, gather_users, lane_of, train_items
from raysys.data.splitting import GlobalTime, LeaveOneOut
from raysys.data.vocabulary import Vocabulary
from raysys.errors import UserError

LOO = LeaveOneOut(LeaveOneOut.Config())
EVENT_NAMES = ("buy", "click", "view")


def events_table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, schema=events_schema(("rating",)), preserve_index=False)


def log(seed: int = 0, num_events: int = 300, num_users: int = 25) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": [f"u{i}" for i in generator.integers(num_users, size=num_events)],
            "item_id": [f"i{i}" for i in generator.integers(40, size=num_events)],
            "event": generator.choice(EVENT_NAMES, num_events),
            "timestamp": generator.integers(0, 50, num_events) * 1000,  # many ties
            "position": generator.permutation(num_events),
            "label.rating": np.where(generator.random(num_events) < 0.3, np.nan, generator.integers(1, 6, num_events)),
        }
    )


def by_user(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    ordered = frame.sort_values(["timestamp", "position"], kind="stable")
    return dict(iter(ordered.groupby("user_id")))


def loo_marks(is_history: list[bool]) -> list[int]:
    left = np.cumsum(is_history[::-1])[::-1]  # history events from here on
    if sum(is_history) < 3:
        return [0] * len(is_history)
    return [2 - min(2, int(later)) for later in [*left[1:], 0]]  # by the number of history events after this one


@pytest.mark.parametrize("history", [(), ("buy",), ("click", "buy")])
def test_users_are_gathered_in_order_of_time_and_position(history):
    frame = log()
    users = gather_users(events_table(frame), history, LOO)
    expected = by_user(frame)
    assert users.users.to_pylist() == sorted(expected)
    for at, user in enumerate(users.users.to_pylist()):
        span = slice(users.offsets[at], users.offsets[at + 1])
        own = expected[user]
        table = users.table.slice(span.start, span.stop - span.start)
        assert table["item_id"].to_pylist() == own["item_id"].tolist()
        assert table["position"].to_pylist() == own["position"].tolist()
        flags = own["event"].isin(history or EVENT_NAMES).tolist()
        assert users.is_history[span].tolist() == flags
        assert users.marks[span].tolist() == loo_marks(flags)


def test_order_of_rows_does_not_matter():
    frame = log()
    first = gather_users(events_table(frame), (), LOO)
    other = gather_users(events_table(frame.sample(frac=1, random_state=1)), (), LOO)
    assert first.table.equals(other.table)
    assert first.users.equals(other.users)
    assert (first.marks == other.marks).all()


def test_train_items_are_what_pandas_counts():
    frame = log(1)
    frame.loc[frame["item_id"] == "i7", "event"] = "view"
    users = gather_users(events_table(frame), ("buy", "click"), LOO)
    marked = pd.concat(
        own.assign(mark=loo_marks(own["event"].isin(("buy", "click")).tolist())) for own in by_user(frame).values()
    )
    train = marked[marked["mark"] == Split.TRAIN]
    expected = train.groupby("item_id").agg(
        first_time=("timestamp", "min"), count=("event", lambda names: names.isin(("buy", "click")).sum())
    )
    found = train_items(users).to_pandas().set_index("item_id").sort_index()
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert found.loc["i7", "count"] == 0, "an item that was only viewed is known and not popular"


def test_shards_hold_every_event_as_lists():
    frame = log(2)
    users = gather_users(events_table(frame), ("buy",), LOO)
    vocabulary = Vocabulary(pa.array([f"i{i}" for i in range(30)]))  # items 30..39 were never in training
    items = vocabulary.encode(users.table["item_id"])
    shard = encode_users(users, items, EVENT_NAMES, sequences_schema(("rating",)))
    assert shard.schema == sequences_schema(("rating",))
    expected = by_user(frame)
    for row in shard.to_pylist():
        own = expected[row["user_id"]]
        numbers = own["item_id"].str[1:].astype(int)
        assert row["items"] == np.where(numbers < 30, numbers + 2, 1).tolist()
        assert row["events"] == [EVENT_NAMES.index(name) for name in own["event"]]
        assert row["times"] == own["timestamp"].tolist()
        assert row["marks"] == loo_marks((own["event"] == "buy").tolist())
        assert row["label.rating"] == [None if np.isnan(value) else value for value in own["label.rating"]]


def test_marks_are_counted_per_user():
    frame = log(3)
    users = gather_users(events_table(frame), ("buy", "view"), LOO)
    counts = count_marks(users)
    for at, (_, own) in enumerate(sorted(by_user(frame).items())):
        flags = own["event"].isin(("buy", "view")).tolist()
        marks = loo_marks(flags)
        for name, mark in (("train", 0), ("valid", 1), ("test", 2)):
            assert counts[f"{name}_events"][at] == marks.count(mark)
            assert counts[f"{name}_tokens"][at] == sum(
                flag and found == mark for flag, found in zip(flags, marks, strict=True)
            )


def test_events_without_times_keep_the_order_of_the_source():
    frame = log(4).assign(timestamp=None)
    users = gather_users(events_table(frame), (), LOO)
    for at, (_, own) in enumerate(sorted(frame.sort_values("position").groupby("user_id"))):
        span = slice(users.offsets[at], users.offsets[at + 1])
        assert users.table["position"].to_numpy()[span].tolist() == own["position"].tolist()
    assert train_items(users)["first_time"].null_count == len(train_items(users))


def test_a_split_by_time_needs_times():
    split = GlobalTime(GlobalTime.Config(valid_from="2020-01-01", test_from="2020-02-01"))
    frame = log(5)
    frame.loc[3, "timestamp"] = None
    with pytest.raises(UserError, match=r"split: kind 'time' needs a time for every event.*columns\.timestamp"):
        gather_users(events_table(frame), (), split)
    assert gather_users(events_table(log(5)), (), split).marks.max() == 0


def test_no_events_give_no_users():
    users = gather_users(events_schema(()).empty_table(), ("buy",), LOO)
    assert (len(users.users), users.offsets.tolist(), len(users.marks)) == (0, [0], 0)
    assert train_items(users).num_rows == 0
    assert {name: len(counts) for name, counts in count_marks(users).items()} == dict.fromkeys(count_marks(users), 0)


def test_lanes_are_stable_and_even():
    ids = pa.chunked_array([[f"user-{i}" for i in range(6000)], ["ä", "", "user-1"]])
    lanes = lane_of(ids, 7)
    assert lanes[-1] == lanes[1]
    assert np.bincount(lanes, minlength=7).min() > 700
    assert lane_of(pa.chunked_array([["u1", "u2", "u3"]]), 1000).tolist() == [869, 421, 373], (
        "lanes are storage: a new hash would move every user of a dataset that is added to"
    )


@settings(max_examples=50)
@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), max_size=20))
def test_users_of_any_name_are_told_apart(rows):
    frame = pd.DataFrame(
        {
            "user_id": [user for user, _ in rows],
            "item_id": "i",
            "event": "buy",
            "timestamp": [time for _, time in rows],
            "position": range(len(rows)),
            "label.rating": 0.0,
        }
    )
    users = gather_users(events_table(frame), (), LOO)
    found = [users.table["position"].to_pylist()[a:b] for a, b in zip(users.offsets, users.offsets[1:], strict=False)]
    names = sorted({user for user, _ in rows})
    assert users.users.to_pylist() == names
    assert found == [
        [at for at, _ in sorted(enumerate(rows), key=lambda pair: pair[1][1]) if rows[at][0] == name] for name in names
    ]
