"""Events of users, gathered into one row per user in time order. Pure: Ray Data only decides where it runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.lanes import LaneEvents
from raysys.data.schema import (
    CATEGORY_PREFIX,
    EVENTS,
    FIRST_ITEM,
    LABEL_PREFIX,
    NEVER,
    NUMBER_PREFIX,
    UNKNOWN,
    Fields,
    Split,
)

TRAIN_ITEMS = pa.schema([("item_id", pa.string()), ("first_time", pa.int64()), ("count", pa.int64())])
"""What a vocabulary may know: items, when training first met them (or NEVER), and how often they were taken in it."""


@dataclass(frozen=True)
class LogTable:
    """Events in the order of their sources, with the names their `event` codes stand for."""

    table: pa.Table  # EVENTS with `event` as i8 codes, further columns, in any chunks
    event_names: tuple[str, ...]


def gather_lane(parts: Sequence[LogTable], event_names: tuple[str, ...], history: Sequence[str]) -> LaneEvents:
    """Sort the events of whole users by (user, time, order of the parts and rows).

    Args:
        parts: at least one table, all of the same columns; earlier parts come first where times tie.
        event_names: every name the codes can stand for, ascending.
        history: names of the events that become tokens; all of them when empty.
    """
    table = pa.concat_tables([part.table for part in parts])
    codes = np.concatenate([_recode(part, event_names) for part in parts])
    users, user_codes = _coded(table["user_id"])
    items, item_codes = _coded(table["item_id"])
    times = _numpy(pc.fill_null(table["timestamp"], 0))
    order = np.lexsort((times, user_codes))  # stable: what ties stays in the order of the sources
    sorted_users = user_codes[order]
    starts = np.flatnonzero(np.diff(sorted_users, prepend=-1))
    place = pa.array(order)
    known = np.array([name in history for name in event_names] if history else [True] * len(event_names), bool)
    events = codes[order]
    further = [name for name in table.column_names if name not in ("user_id", "item_id", "event", "timestamp")]
    return LaneEvents(
        users=users,
        offsets=np.append(starts, len(order)).astype(np.int64),
        item_ids=items,
        items=item_codes[order],
        event_names=event_names,
        events=events,
        times=times[order],
        is_history=known[events],
        columns={name: _whole(table[name]).take(place) for name in further},
    )


def log_of(lane: LaneEvents) -> pa.Table:
    """Return what is kept of a lane for later days: its events before cleaning, without their place in the sources."""
    owner = pa.array(lane.owner.astype(np.int32))
    further = {name: column for name, column in lane.columns.items() if name != "position"}
    columns = {
        "user_id": pa.DictionaryArray.from_arrays(owner, lane.users),
        "item_id": pa.DictionaryArray.from_arrays(pa.array(lane.items), lane.item_ids),
        "event": pa.array(lane.events),
        "timestamp": pa.array(lane.times),
        **further,
    }
    return with_event_names(pa.table(columns), lane.event_names)


def from_log(table: pa.Table, columns: Mapping[str, pa.DataType]) -> LogTable:
    """Return the kept events of a lane as the first part of what `gather_lane` sorts again.

    Args:
        table: what `log_of` returned.
        columns: further columns that the newer parts have; those the log lacks are null.
    """
    arrays = {name: pc.cast(table[name], pa.string()) for name in ("user_id", "item_id")}
    arrays |= {"event": table["event"], "timestamp": table["timestamp"]}
    arrays["position"] = pa.chunked_array([pa.array(np.full(table.num_rows, -1, np.int64))])
    for name, kind in columns.items():
        arrays[name] = table[name] if name in table.column_names else pa.nulls(table.num_rows, kind)
    return LogTable(pa.table(arrays), event_names_of(table))


def with_event_names(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return a table with the names that its `event` codes stand for written beside its schema."""
    return table.replace_schema_metadata({"event_names": json.dumps(names)})


def event_names_of(table: pa.Table) -> tuple[str, ...]:
    """Return the names that `with_event_names` wrote."""
    return tuple(json.loads(table.schema.metadata[b"event_names"]))


def train_items(lane: LaneEvents, marks: np.ndarray) -> pa.Table:
    """Return TRAIN_ITEMS of a lane, a row for each of its items: all that a vocabulary may know of these users.

    `count` counts history events only: what was shown and not taken makes no item popular. An item that no training
    event names has first_time NEVER and count 0.
    """
    train = marks == Split.TRAIN
    first = np.full(len(lane.item_ids), NEVER)
    np.minimum.at(first, lane.items[train], lane.times[train])
    counts = np.bincount(lane.items[train & lane.is_history], minlength=len(lane.item_ids)).astype(np.int64)
    return pa.table({"item_id": lane.item_ids, "first_time": first, "count": counts}, schema=TRAIN_ITEMS)


def train_categories(lane: LaneEvents, marks: np.ndarray, name: str) -> pa.Table:
    """Return TRAIN_ITEMS of the values of a context category: values of training events only."""
    train = pa.array(marks == Split.TRAIN)
    values = pa.table({"item_id": lane.columns[CATEGORY_PREFIX + name], "time": pa.array(lane.times)}).filter(train)
    grouped = values.filter(pc.is_valid(values["item_id"])).group_by("item_id")
    found = grouped.aggregate([("time", "min"), ("time", "count")])
    return found.rename_columns(TRAIN_ITEMS.names).cast(TRAIN_ITEMS)


def draft_rows(lane: LaneEvents, marks: np.ndarray, fields: Fields) -> pa.Table:
    """Return one row per user with events as parallel lists; items are places in the lane's `item_ids` still.

    Categories are dictionary arrays of the lane's own values; `encode_rows` makes a shard of it.
    """
    offsets = pa.array(lane.offsets.astype(np.int32))
    floats = [LABEL_PREFIX + name for name in fields.labels] + [NUMBER_PREFIX + name for name in fields.numbers]
    flat = {
        "items": pa.array(lane.items),
        "events": pa.array(lane.events),
        "times": pa.array(lane.times),
        "marks": pa.array(marks),
        **{name: lane.columns[name] for name in floats},
        **{CATEGORY_PREFIX + name: lane.columns[CATEGORY_PREFIX + name] for name in fields.categories},
    }
    return pa.table(
        {"user_id": lane.users, **{name: pa.ListArray.from_arrays(offsets, column) for name, column in flat.items()}}
    )


def encode_rows(
    draft: pa.Table, item_indices: np.ndarray, categories: Mapping[str, pa.Array], schema: pa.Schema
) -> pa.Table:
    """Return shard rows (SEQUENCES) of a lane's draft.

    Args:
        draft: what `draft_rows` returned.
        item_indices: vocabulary index of each of the lane's items [I] i32.
        categories: for each context category its values in index order; unseen values become UNKNOWN.
        schema: of the shard.
    """
    columns: dict[str, pa.Array] = {}
    for name in schema.names:
        whole = _whole(draft[name])
        if name == "items":
            indices = pa.array(item_indices[whole.values.to_numpy()])
            whole = pa.ListArray.from_arrays(whole.offsets, indices)
        elif name.startswith(CATEGORY_PREFIX):
            found = pc.index_in(whole.values, categories[name.removeprefix(CATEGORY_PREFIX)])
            codes = pc.fill_null(pc.add(found, FIRST_ITEM), UNKNOWN)
            whole = pa.ListArray.from_arrays(whole.offsets, codes)
        columns[name] = whole
    return pa.table(columns, schema=schema)


def count_marks(lane: LaneEvents, marks: np.ndarray) -> dict[str, np.ndarray]:
    """Return per user how many events, and how many history events, carry each mark: the columns of ROWS."""
    counts = {}
    for name, mark in (("train", Split.TRAIN), ("valid", Split.VALID), ("test", Split.TEST)):
        here = marks == mark
        for what, chosen in (("events", here), ("tokens", here & lane.is_history)):
            running = np.concatenate([[0], np.cumsum(chosen)])
            counts[f"{name}_{what}"] = (running[lane.offsets[1:]] - running[lane.offsets[:-1]]).astype(np.int32)
    return counts


def _recode(part: LogTable, event_names: tuple[str, ...]) -> np.ndarray:
    place = {name: code for code, name in enumerate(event_names)}
    codes = np.array([place[name] for name in part.event_names], np.int8)
    return codes[_numpy(part.table["event"])] if len(codes) else np.zeros(0, np.int8)


def _coded(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct texts, ascending, and the place of each value among them [E] i32."""
    coded = _whole(column).dictionary_encode()
    order = pc.sort_indices(coded.dictionary)
    rank = np.empty(len(order), np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return coded.dictionary.take(order), rank[coded.indices.to_numpy()]


def _numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return _whole(column).to_numpy(zero_copy_only=False)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


assert set(EVENTS.names) == {"user_id", "item_id", "event", "timestamp", "position"}
