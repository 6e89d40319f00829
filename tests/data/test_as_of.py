"""Events see the values of their own time: against pandas.merge_asof and plain loops."""

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from lane_maker import make_lane, rows_of

from raysys.data.as_of import as_of, join_as_of

PAIRS = st.lists(st.tuples(st.integers(-2, 4), st.integers(-5, 5)), max_size=30)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def brute_force(events: list[tuple[int, int]], table: list[tuple[int, int]]) -> list[int]:
    found = []
    for key, time in events:
        rows = [(own, row) for row, (name, own) in enumerate(table) if name == key and own <= time]
        found.append(max(rows)[1] if rows else -1)
    return found


@given(PAIRS, PAIRS)
def test_each_event_gets_the_newest_row_of_its_past(events, table):
    assert as_of(*columns(events), *columns(table)).tolist() == brute_force(events, table)


def test_it_is_what_pandas_merges():
    generator = np.random.default_rng(0)
    keys, times = generator.integers(50, size=5000).astype(np.int32), generator.integers(1 << 62, size=5000)
    table_keys, table_times = generator.integers(40, size=700), generator.integers(1 << 62, size=700)
    events = pd.DataFrame({"key": keys.astype(np.int64), "time": times, "event": range(5000)}).sort_values("time")
    table = pd.DataFrame({"key": table_keys, "time": table_times, "row": range(700)}).sort_values("time")
    merged = pd.merge_asof(events, table, on="time", by="key").sort_values("event")
    rows = as_of(keys, times, table_keys, table_times)
    assert rows.dtype == np.int64
    assert rows.tolist() == merged["row"].fillna(-1).astype(int).tolist()
    assert 0 < (rows == -1).sum() < 5000


LANE = make_lane(
    [
        ("u", "a", "view", 10),
        ("u", "b", "view", 20),
        ("u", "a", "view", 30),
        ("v", "a", "view", 30),
        ("w", "c", "view", 30),
    ]
)


def test_user_columns_join_by_user_and_never_from_the_future():
    table = pa.table(
        {
            "id": ["v", "u", "nobody", "u", "u"],
            "time": [31, 25, 0, 10, 20],
            "number.age": pa.array([1, 3, 9, 1, None], pa.float32()),
            "category.plan": ["x", "gold", "x", "free", "paid"],
        }
    )
    joined = join_as_of(LANE, table, "user")
    assert [row[4] for row in rows_of(joined)] == [
        {"number.user.age": 1, "category.user.plan": "free"},
        {"number.user.age": None, "category.user.plan": "paid"},
        {"number.user.age": 3, "category.user.plan": "gold"},
        {"number.user.age": None, "category.user.plan": None},
        {"number.user.age": None, "category.user.plan": None},
    ]
    assert joined.columns["number.user.age"].type == pa.float32()
    assert joined.columns["category.user.plan"].type == pa.string()


def test_item_columns_join_by_item_and_titles_stay_in_the_table():
    table = pa.table(
        {
            "id": ["a", "c", "a"],
            "time": [0, 30, 30],
            "title": ["A", "C", "A"],
            "number.price": pa.array([1, 7, 2], pa.float32()),
        }
    )
    assert join_as_of(LANE, table, "item").columns["number.item.price"].to_pylist() == [1, None, 2, 2, 7]
    assert set(join_as_of(LANE, table, "item").columns) == {"position", "number.item.price"}


def test_a_table_of_others_gives_unknown_values():
    for ids in ([], ["nobody"]):
        table = pa.table(
            {"id": pa.array(ids, pa.string()), "time": pa.array([0] * len(ids), pa.int64())}
            | {"number.age": pa.nulls(len(ids), pa.float32()), "category.plan": pa.nulls(len(ids), pa.string())}
        )
        joined = join_as_of(LANE, table, "user")
        assert joined.columns["number.user.age"].null_count == len(LANE)
        assert joined.columns["category.user.plan"].null_count == len(LANE)
