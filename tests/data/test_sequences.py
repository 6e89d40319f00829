"""Events gathered per user, compared with what pandas finds by plain grouping."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.data.schema import NEVER, Fields, Split, events_schema, sequences_schema
from raysys.data.sequences import (
    LogTable,
    count_marks,
    draft_rows,
    encode_rows,
    from_log,
    gather_lane,
    log_of,
    train_categories,
    train_items,
)
from raysys.data.splitting import LeaveOneOut
from raysys.data.vocabulary import Vocabulary

LOO = LeaveOneOut(LeaveOneOut.Config())
EVENT_NAMES = ("buy", "click", "view")
FIELDS = Fields(labels=("rating",), numbers=("hour",), categories=("device",), request_id=True)


def log(seed: int = 0, num_events: int = 300, num_users: int = 25) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": [f"u{i}" for i in generator.integers(num_users, size=num_events)],
            "item_id": [f"i{i}" for i in generator.integers(40, size=num_events)],
            "event": generator.choice(EVENT_NAMES, num_events),
            "timestamp": generator.integers(0, 50, num_events) * 1000,  # many ties
            "position": np.arange(num_events),
            "label.rating": np.where(generator.random(num_events) < 0.3, np.nan, generator.integers(1, 6, num_events)),
            "number.hour": generator.integers(24, size=num_events),
            "category.device": generator.choice(["phone", "desk", None], num_events),
            "request_id": [f"r{i}" for i in range(num_events)],
        }
    )


def part(frame: pd.DataFrame, names: tuple[str, ...] | None = None) -> LogTable:
    """Rows of the log as a task of the first pass leaves them: with codes for the names that this part has."""
    names = tuple(frame["event"].unique()) if names is None else names
    schema = pa.schema([field.with_nullable(True) for field in events_schema(FIELDS)])
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    codes = pa.array([names.index(name) for name in frame["event"]], pa.int8())
    return LogTable(table.set_column(table.column_names.index("event"), "event", codes), names)


def gather(frame: pd.DataFrame, history=()):
    return gather_lane([part(frame)], EVENT_NAMES, history)


def by_user(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    ordered = frame.sort_values(["timestamp", "position"], kind="stable")
    return dict(iter(ordered.groupby("user_id")))


def loo_marks(is_history: list[bool]) -> list[int]:
    left = np.cumsum(is_history[::-1])[::-1]  # history events from here on
    if sum(is_history) < 3:
        return [0] * len(is_history)
    return [2 - min(2, int(later)) for later in [*left[1:], 0]]  # by the number of history events after this one


def none_for_nan(values) -> list:
    return [None if value is None or value != value else value for value in values]


@pytest.mark.parametrize("history", [(), ("buy",), ("click", "buy")])
def test_users_are_gathered_in_order_of_time_and_source(history):
    frame = log()
    lane = gather(frame, history)
    expected = by_user(frame)
    assert lane.users.to_pylist() == sorted(expected)
    assert lane.item_ids.to_pylist() == sorted(frame["item_id"].unique())
    items = np.array(lane.item_ids.to_pylist())
    for at, user in enumerate(lane.users.to_pylist()):
        span, own = slice(lane.offsets[at], lane.offsets[at + 1]), expected[user]
        assert items[lane.items[span]].tolist() == own["item_id"].tolist()
        assert [EVENT_NAMES[code] for code in lane.events[span]] == own["event"].tolist()
        assert lane.times[span].tolist() == own["timestamp"].tolist()
        for name in ("position", "request_id", "label.rating", "number.hour", "category.device"):
            assert lane.columns[name].to_pylist()[span] == none_for_nan(own[name])
        flags = own["event"].isin(history or EVENT_NAMES).tolist()
        assert lane.is_history[span].tolist() == flags
        assert LOO.mark(lane)[span].tolist() == loo_marks(flags)


def test_parts_with_names_of_their_own_make_one_lane():
    frame = log(6)
    cuts = [frame.iloc[:100], frame.iloc[100:101], frame.iloc[101:]]
    whole = gather(frame)
    lane = gather_lane([part(cut) for cut in cuts], EVENT_NAMES, ())
    assert [part(cut).event_names for cut in cuts] != [EVENT_NAMES] * 3
    assert (lane.events == whole.events).all()
    assert lane.columns["position"].equals(whole.columns["position"])
    late = gather_lane([part(cut) for cut in reversed(cuts)], EVENT_NAMES, ())
    order = pd.concat(reversed(cuts)).assign(position=range(len(frame)))
    positions = [p for own in by_user(order).values() for p in own["request_id"]]
    assert late.columns["request_id"].to_pylist() == positions, "where times tie, the earlier part comes first"


def test_train_items_are_what_pandas_counts():
    frame = log(1)
    frame.loc[frame["item_id"] == "i7", "event"] = "view"
    lane = gather(frame, ("buy", "click"))
    marked = pd.concat(
        own.assign(mark=loo_marks(own["event"].isin(("buy", "click")).tolist())) for own in by_user(frame).values()
    )
    train = marked[marked["mark"] == Split.TRAIN]
    expected = train.groupby("item_id").agg(
        first_time=("timestamp", "min"), count=("event", lambda names: names.isin(("buy", "click")).sum())
    )
    table = train_items(lane, LOO.mark(lane))
    assert table["item_id"].to_pylist() == lane.item_ids.to_pylist()
    found = table.to_pandas().set_index("item_id")
    never = set(frame["item_id"]) - set(train["item_id"])
    assert set(found.index[found["first_time"] == NEVER]) == never
    found = found[found["first_time"] < NEVER]
    pd.testing.assert_frame_equal(found, expected.sort_index(), check_dtype=False)
    assert found.loc["i7", "count"] == 0, "an item that was only viewed is known and not popular"
    devices = train_categories(lane, LOO.mark(lane), "device").to_pandas().set_index("item_id").sort_index()
    known = train.groupby("category.device").agg(first_time=("timestamp", "min"), count=("timestamp", "size"))
    pd.testing.assert_frame_equal(devices, known.rename_axis("item_id"), check_dtype=False)


def test_shards_hold_every_event_as_lists():
    frame = log(2)
    lane = gather(frame, ("buy",))
    schema = sequences_schema(FIELDS)
    vocabulary = Vocabulary(pa.array([f"i{i}" for i in range(30)]))  # items 30..39 were never in training
    draft = draft_rows(lane, LOO.mark(lane), FIELDS)
    assert draft.num_rows == len(lane.users)
    shard = encode_rows(draft, vocabulary.encode(lane.item_ids).to_numpy(), {"device": pa.array(["desk"])}, schema)
    assert shard.schema == schema
    assert "request_id" not in shard.column_names
    expected = by_user(frame)
    for row in shard.to_pylist():
        own = expected[row["user_id"]]
        numbers = own["item_id"].str[1:].astype(int)
        assert row["items"] == np.where(numbers < 30, numbers + 2, 1).tolist()
        assert row["events"] == [EVENT_NAMES.index(name) for name in own["event"]]
        assert row["times"] == own["timestamp"].tolist()
        assert row["marks"] == loo_marks((own["event"] == "buy").tolist())
        assert row["label.rating"] == none_for_nan(own["label.rating"])
        assert row["number.hour"] == own["number.hour"].tolist()
        assert row["category.device"] == [2 if device == "desk" else 1 for device in own["category.device"]]


def test_marks_are_counted_per_user():
    frame = log(3)
    lane = gather(frame, ("buy", "view"))
    counts = count_marks(lane, LOO.mark(lane))
    for at, (_, own) in enumerate(sorted(by_user(frame).items())):
        flags = own["event"].isin(("buy", "view")).tolist()
        marks = loo_marks(flags)
        for name, mark in (("train", 0), ("valid", 1), ("test", 2)):
            assert counts[f"{name}_events"][at] == marks.count(mark)
            assert counts[f"{name}_tokens"][at] == sum(
                flag and found == mark for flag, found in zip(flags, marks, strict=True)
            )


def test_given_events_are_history_and_count_nowhere():
    frame = log(7)
    lane = gather(frame)
    marks = np.full(len(lane), Split.GIVEN, np.int8)
    items = train_items(lane, marks)
    assert items["item_id"].to_pylist() == lane.item_ids.to_pylist()
    assert set(items["first_time"].to_pylist()) == {NEVER}
    assert set(items["count"].to_pylist()) == {0}
    assert train_categories(lane, marks, "device").num_rows == 0
    assert all((counts == 0).all() for counts in count_marks(lane, marks).values())


def test_events_without_times_keep_the_order_of_the_source():
    frame = log(4).assign(timestamp=None)
    lane = gather(frame)
    for at, (_, own) in enumerate(sorted(frame.groupby("user_id"))):
        span = slice(lane.offsets[at], lane.offsets[at + 1])
        assert lane.columns["position"].to_numpy()[span].tolist() == own["position"].tolist()
    assert (lane.times == 0).all()
    assert train_items(lane, LOO.mark(lane))["first_time"].to_pylist() == [0] * frame["item_id"].nunique()


def test_no_events_give_no_users():
    lane = gather(log(0, 0), ("buy",))
    marks = LOO.mark(lane)
    assert (len(lane.users), lane.offsets.tolist(), len(marks)) == (0, [0], 0)
    assert train_items(lane, marks).num_rows == 0
    assert {len(counts) for counts in count_marks(lane, marks).values()} == {0}
    draft = draft_rows(lane, marks, FIELDS)
    shard = encode_rows(draft, np.zeros(0, np.int32), {"device": pa.array([], pa.string())}, sequences_schema(FIELDS))
    assert shard.num_rows == 0
    assert len(from_log(log_of(lane), FIELDS.columns).table) == 0


def test_a_log_is_read_back_as_it_was_gathered():
    frame = log(8).assign(event=lambda rows: rows["event"].replace("click", "put in\nthe cart"))
    names = tuple(sorted(frame["event"].unique()))
    lane = gather_lane([part(frame)], names, ("buy",))
    table = log_of(lane)
    assert "position" not in table.column_names
    log_part = from_log(table, FIELDS.columns)
    assert log_part.event_names == names
    again = gather_lane([log_part], names, ("buy",))
    for name in ("offsets", "items", "events", "times", "is_history"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lane, name))
    assert again.users.equals(lane.users)
    assert again.item_ids.equals(lane.item_ids)
    for name in FIELDS.columns:
        assert again.columns[name].equals(lane.columns[name])
    assert set(again.columns["position"].to_pylist()) == {-1}, "where it stood in its source is not kept"


def test_a_log_lacks_what_only_newer_parts_have():
    lane = gather_lane([part(log(9))], EVENT_NAMES, ())
    part_of_log = from_log(log_of(lane), FIELDS.columns | {"number.slot": pa.float32()})
    assert part_of_log.table["number.slot"].null_count == len(lane)
    newer = part(log(10).assign(timestamp=lambda rows: rows["timestamp"] + 10))
    slots = pa.array(np.arange(300, dtype=np.float32))
    newer = LogTable(newer.table.append_column("number.slot", slots), newer.event_names)
    newer = LogTable(newer.table.select(part_of_log.table.column_names), newer.event_names)
    both = gather_lane([part_of_log, newer], EVENT_NAMES, ())
    assert len(both) == 600
    assert both.columns["number.slot"].null_count == 300


@settings(max_examples=50)
@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), max_size=20))
def test_users_of_any_name_are_told_apart(rows):
    frame = pd.DataFrame(
        {
            "user_id": pd.Series([user for user, _ in rows], dtype=object),
            "item_id": "i",
            "event": "buy",
            "timestamp": pd.Series([time for _, time in rows], dtype="int64"),
            "position": np.arange(len(rows)),
            "label.rating": 0.0,
            "number.hour": 0.0,
            "category.device": "phone",
            "request_id": "r",
        }
    )
    lane = gather_lane([part(frame, ("buy",))], ("buy",), ())
    positions = lane.columns["position"].to_pylist()
    found = [positions[a:b] for a, b in zip(lane.offsets, lane.offsets[1:], strict=False)]
    names = sorted({user for user, _ in rows}, key=str.encode)
    assert lane.users.to_pylist() == names
    assert found == [
        [at for at, _ in sorted(enumerate(rows), key=lambda pair: pair[1][1]) if rows[at][0] == name] for name in names
    ]
