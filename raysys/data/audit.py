"""Leak audit: proves from the finished files that nothing of the validation or test period was learned from.

It shares no code with the stations it checks: it reads a shard back and recomputes what training alone may know.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.files import read_arrow
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NEVER, Split
from raysys.errors import UserError


class LeakError(UserError):
    """The dataset would let training see what is held out."""


def audit_shard(
    shard: Path,
    learned: pa.Table,
    indices: np.ndarray,
    item_ids: pa.Array,
    is_history: np.ndarray,
    periods: tuple[int, int] | None,
) -> int:
    """Check one shard against what was learned from it; returns its training tokens.

    Five facts: no user's mark falls along the line, so no history holds a later period; times never fall; where the
    periods are moments for all users, no event is marked for another period than its own; the items, counts and first
    times that reached the vocabulary are exactly those of the training events; every training event has an item that
    the vocabulary knows.

    Args:
        shard: the finished file.
        learned: TRAIN_ITEMS that the shard's users gave to the vocabulary.
        indices: vocabulary index of each row of `learned`.
        item_ids: the vocabulary's ids in index order.
        is_history: for every event name, whether it becomes a token.
        periods: begin of validation and of test in ms, where these are moments for all users.

    Raises:
        LeakError: one of these does not hold.
    """
    rows = read_arrow(shard)
    offsets = rows["items"].combine_chunks().offsets.to_numpy()
    items, times, marks = (rows[name].combine_chunks().values.to_numpy() for name in ("items", "times", "marks"))
    inside = np.ones(max(len(items) - 1, 0), bool)
    inside[offsets[(offsets > 0) & (offsets < len(items))] - 1] = False  # pairs of neighbours of one user
    _demand(not (inside & (np.diff(marks) < 0)).any(), shard, "an event of an earlier period follows one of a later")
    _demand(not (inside & (np.diff(times) < 0)).any(), shard, "a user's events are not in the order of time")
    train = marks == Split.TRAIN
    if periods is not None:
        own = np.searchsorted(np.array(periods), times, side="right")
        _demand(bool((marks == own).all()), shard, "an event is marked for another period than that of its time")
    _demand(not (items[train] < FIRST_ITEM).any(), shard, "a training event has an item that the vocabulary lacks")
    first, counts = _taught(rows, len(item_ids), is_history)
    met = learned["first_time"].to_numpy() < NEVER
    where, claimed = indices[met] - FIRST_ITEM, learned.filter(pa.array(met))
    _demand(not (where < 0).any(), shard, "an item that was learned is not in the vocabulary")
    same = (
        len(where) == int(np.sum(first < NEVER))
        and (first[where] == claimed["first_time"].to_numpy()).all()
        and (counts[where] == claimed["count"].to_numpy()).all()
        and item_ids.take(pa.array(where)).equals(claimed["item_id"].combine_chunks())
    )
    _demand(bool(same), shard, "the vocabulary's counts are not those of the training events")
    return int(counts.sum())


def taught(rows: pa.Table, item_ids: pa.Array, is_history: np.ndarray) -> pa.Table:
    """Return what the training events of shard rows teach a vocabulary: item_id ascending, first_time, count."""
    first, counts = _taught(rows, len(item_ids), is_history)
    seen = np.flatnonzero(first < NEVER)
    columns = {"first_time": first[seen], "count": counts[seen].astype(np.int64)}
    return pa.table({"item_id": item_ids.take(pa.array(seen)), **columns}).sort_by("item_id")


def _taught(rows: pa.Table, size: int, is_history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first training time of each item of a vocabulary [I], and its training tokens [I]."""
    flat = {name: rows[name].combine_chunks() for name in ("items", "events", "times", "marks")}
    items, events, times, marks = (flat[name].flatten().to_numpy() for name in ("items", "events", "times", "marks"))
    train = marks == Split.TRAIN
    place = items[train] - FIRST_ITEM
    first = np.full(size, NEVER)
    np.minimum.at(first, place, times[train])
    return first, np.bincount(place[is_history[events[train]]], minlength=size)


def audit_categories(shard: Path, name: str, learned: pa.Table, values: pa.Array, column: str) -> None:
    """Check that what a shard gave to the index of a context category are exactly its training events.

    Args:
        shard: the finished file.
        name: of the category.
        learned: TRAIN_ITEMS of the values that the shard's users gave, with the number of their training events.
        values: the values in index order.
        column: of the shard that holds the indices.

    Raises:
        LeakError: they are not.
    """
    rows = read_arrow(shard)
    codes, marks = (rows[one].combine_chunks().values.to_numpy() for one in (column, "marks"))
    found = np.bincount(codes[(marks == Split.TRAIN) & (codes >= FIRST_ITEM)] - FIRST_ITEM, minlength=len(values))
    place = pc.index_in(learned["item_id"].combine_chunks(), values)
    _demand(not place.null_count, shard, f"{name}: a value that was learned has no index")
    claimed = np.zeros(len(values), np.int64)
    claimed[place.to_numpy()] = learned["count"].to_numpy()
    _demand(bool((found == claimed).all()), shard, f"{name}: its values were not learned from training events alone")


def audit_features(table: pa.Table, training: np.ndarray, earlier: Mapping[str, int], path: Path) -> None:
    """Check that every value of the categories of items or users stands in a row that training knows.

    Args:
        table: one row per item or user, categories as dictionaries.
        training: whether training knows the row [N].
        earlier: of each category the number of values that an earlier version brought along.
        path: of the table, for the message.

    Raises:
        LeakError: a value is only carried by rows that training does not know.
    """
    known = table.filter(pa.array(training))
    for name in (name for name in table.column_names if name.startswith(CATEGORY_PREFIX)):
        seen: set[int] = set()
        size = 0
        for chunk in known[name].chunks:
            column = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            seen.update(pc.unique(column.indices.drop_null()).to_pylist())
            size = len(column.dictionary)
        late = set(range(earlier.get(name, 0), size)) - seen
        _demand(not late, path, f"{name}: {len(late)} of its values are not those of training rows")


def audit_catalog(popularity: np.ndarray, train_tokens: int, path: Path) -> None:
    """Check that the popularity of all items adds up to the training tokens of all shards, no event more.

    Raises:
        LeakError: it does not.
    """
    _demand(int(popularity.sum()) == train_tokens, path, "popularity does not add up to the training events")


def _demand(holds: bool, where: Path, what: str) -> None:
    if not holds:
        raise LeakError(f"leak audit: {where.name}: {what}; the split let a held-out event in, so nothing is written")
