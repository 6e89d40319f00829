"""Events of users, gathered into one row per user in time order. Pure: Ray Data only decides where it runs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.schema import LABEL_PREFIX, Split
from raysys.data.splitting import Splitting
from raysys.errors import UserError


@dataclass(frozen=True)
class UserEvents:
    """The events of whole users, sorted by (user, time, position)."""

    users: pa.Array  # [U] string, ascending
    offsets: np.ndarray  # [U + 1]
    table: pa.Table  # EVENTS [E], sorted
    marks: np.ndarray  # [E] i8, Split
    is_history: np.ndarray  # [E] bool


def lane_of(user_ids: pa.ChunkedArray, num_lanes: int) -> np.ndarray:
    """Return the storage lane [E] of each user id: a stable hash, the same in every process and version."""
    hashed = pd.util.hash_array(user_ids.to_numpy(zero_copy_only=False).astype(object), categorize=True)
    return (hashed % np.uint64(num_lanes)).astype(np.int32)


def gather_users(events: pa.Table, history: tuple[str, ...], splitting: Splitting) -> UserEvents:
    """Sort the events of whole users, find where each user begins, and mark the split.

    Raises:
        UserError: the split needs times and some event has none.
    """
    times = pc.fill_null(events["timestamp"], 0).to_numpy()
    if splitting.needs_time and events["timestamp"].null_count:
        raise UserError("split: kind 'time' needs a time for every event; map columns.timestamp or use leave_one_out")
    user_codes = events["user_id"].combine_chunks().dictionary_encode()
    rank = np.argsort(np.argsort(user_codes.dictionary.to_numpy(zero_copy_only=False).astype(object)))
    keys = rank[user_codes.indices.to_numpy()]
    order = np.lexsort((events["position"].to_numpy(), times, keys))
    table = events.take(pa.array(order)).combine_chunks()
    keys = keys[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    offsets = np.append(starts, len(keys)).astype(np.int64)
    is_history = (
        pc.is_in(table["event"], pa.array(history, pa.string())).to_numpy() if history else np.ones(len(keys), bool)
    )
    users = table["user_id"].take(pa.array(starts)).combine_chunks()
    marks = splitting.mark(offsets, times[order], is_history)
    return UserEvents(users, offsets, table, marks, is_history)


def train_items(events: UserEvents) -> pa.Table:
    """Return (item_id, first_time, count) over training events: all that a vocabulary may know of these users.

    `count` counts history events only: what was shown and not taken makes no item popular.
    """
    train = events.marks == Split.TRAIN
    chosen = events.table.select(["item_id", "timestamp"]).append_column(
        "history", pa.array(events.is_history.astype(np.int64))
    )
    grouped = chosen.filter(pa.array(train)).group_by("item_id").aggregate([("timestamp", "min"), ("history", "sum")])
    return grouped.rename_columns({"timestamp_min": "first_time", "history_sum": "count"}).select(
        ["item_id", "first_time", "count"]
    )


def encode_users(events: UserEvents, items: pa.Array, event_names: tuple[str, ...], schema: pa.Schema) -> pa.Table:
    """Return shard rows (SEQUENCES): vocabulary indices and parallel lists per user."""
    offsets = pa.array(events.offsets.astype(np.int32))
    flat = {
        "items": items,
        "events": pc.cast(pc.index_in(events.table["event"], pa.array(event_names)), pa.int8()),
        "times": pc.fill_null(events.table["timestamp"], 0),
        "marks": pa.array(events.marks),
        **{name: events.table[name] for name in events.table.column_names if name.startswith(LABEL_PREFIX)},
    }
    lists = {name: pa.ListArray.from_arrays(offsets, _whole(column)) for name, column in flat.items()}
    return pa.table({"user_id": events.users, **lists}, schema=schema)


def count_marks(events: UserEvents) -> dict[str, np.ndarray]:
    """Return per user how many events, and how many history events, carry each mark: the columns of ROWS."""
    counts = {}
    for name, mark in (("train", Split.TRAIN), ("valid", Split.VALID), ("test", Split.TEST)):
        here = events.marks == mark
        for what, chosen in (("events", here), ("tokens", here & events.is_history)):
            running = np.concatenate([[0], np.cumsum(chosen)])
            counts[f"{name}_{what}"] = (running[events.offsets[1:]] - running[events.offsets[:-1]]).astype(np.int32)
    return counts


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
