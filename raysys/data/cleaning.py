"""What is left out or filled on purpose, though nothing is wrong with it: repeats, rare items, short and endless users.

A k-core spans all lanes, so it takes rounds. The caller of many lanes does:

    excluded = empty
    loop:  counts = [k_core_round(lane, config, excluded, train mask) for every lane]
           excluded, grown = rare_items(counts, config.k_core, excluded);  stop when it has not grown
    clean(lane, config, excluded, train mask) for every lane

Users need no message: a lane holds all events of its users and finds the short ones again from `excluded` alone.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, FiniteFloat, field_validator

from raysys.component import FrozenConfig
from raysys.data.lanes import LaneEvents
from raysys.data.schema import NUMBER_PREFIX
from raysys.errors import UserError, nearest


class KCore(FrozenConfig):
    """How many history events of the training period a user and an item need among those that stay."""

    users: int = Field(ge=1)
    """Users with fewer are left out with all their events."""
    items: int = Field(ge=1)
    """Items with fewer are left out with all their events, also those that only the held-out period knows."""


class CleanConfig(FrozenConfig):
    """What to fill and what to leave out, in this order. What is left out is counted by reason."""

    fill: dict[str, FiniteFloat] = {}
    """Value for a number of the context where it is missing; `{hour: 12}` or `{number.hour: 12}`."""
    collapse_repeats: bool = False
    """Of history events that repeat the user's previous history event (same item and event) only the first stays."""
    k_core: KCore | None = None
    """Leave out users and items with few history events, again and again until all have enough."""
    min_user_events: int = Field(0, ge=0)
    """Users with fewer history events are left out."""
    max_history: int | None = Field(10_000, ge=1)
    """Users keep this many of their newest events, of all kinds together; null keeps all."""

    @field_validator("fill")
    @classmethod
    def _without_prefix(cls, fill: dict[str, float]) -> dict[str, float]:
        return {name.removeprefix(NUMBER_PREFIX): value for name, value in fill.items()}


def clean(
    lane: LaneEvents, config: CleanConfig, excluded: pa.Array | None = None, train_mask: np.ndarray | None = None
) -> tuple[LaneEvents, dict[str, int]]:
    """Return the lane without what the config leaves out, and how many events that was by reason.

    The reasons are repeat, rare_item, short_user and beyond_max_history; those that left nothing out are not named.
    `excluded` is where the rounds of the k-core ended: item ids of all lanes, ascending. `train_mask` [E] is true on
    events of the training period, by default on all.

    Raises:
        UserError: a number to fill is not a column of the lane.
    """
    counts: dict[str, int] = {}
    train = np.ones(len(lane), bool) if train_mask is None else train_mask

    def leave_out(reason: str, bad: np.ndarray | None) -> None:
        nonlocal lane, train
        if bad is not None and bad.any():
            counts[reason] = counts.get(reason, 0) + int(bad.sum())
            lane, train = lane.keep(~bad), train[~bad]

    lane = _fill(lane, config)
    leave_out("repeat", _repeats(lane) if config.collapse_repeats else None)
    leave_out("rare_item", _is_excluded(lane, excluded))
    if config.k_core is not None:
        leave_out("short_user", _short(lane, lane.is_history & train, config.k_core.users))
    if config.min_user_events > 0:
        leave_out("short_user", _short(lane, lane.is_history, config.min_user_events))
    leave_out("beyond_max_history", _beyond(lane, config.max_history))
    return lane, counts


def k_core_round(
    lane: LaneEvents, config: CleanConfig, excluded: pa.Array | None = None, train_mask: np.ndarray | None = None
) -> pa.Table:
    """Return what is left of each item in a lane when the excluded ones and then the short users are out.

    One row (item_id string, count i64) per item of the lane that is not excluded, count being its history events of the
    training period; arguments as for `clean`.
    """
    train = np.ones(len(lane), bool) if train_mask is None else train_mask
    gone = np.zeros(len(lane), bool)
    for bad in (_repeats(lane) if config.collapse_repeats else None, _is_excluded(lane, excluded)):
        gone |= False if bad is None else bad
    counted = lane.is_history & train & ~gone
    if config.k_core is not None:
        counted &= ~_short(lane, counted, config.k_core.users)
    present = np.zeros(len(lane.item_ids), bool)
    present[lane.items[~gone]] = True
    counts = np.bincount(lane.items[counted], minlength=len(lane.item_ids))[present]
    return pa.table({"item_id": lane.item_ids.filter(pa.array(present)), "count": pa.array(counts.astype(np.int64))})


def rare_items(counts: Iterable[pa.Table], k_core: KCore, excluded: pa.Array | None = None) -> tuple[pa.Array, bool]:
    """Return the item ids to exclude in the next round, ascending, and whether this round added any.

    `counts` are the tables of one round, from all lanes.
    """
    before = pa.array([], pa.string()) if excluded is None else excluded
    total = pa.concat_tables(counts).group_by("item_id").aggregate([("count", "sum")])
    rare = total["item_id"].filter(pc.less(total["count_sum"], k_core.items)).combine_chunks()
    both = pa.concat_arrays([before, rare])
    return both.take(pc.array_sort_indices(both)), len(rare) > 0


def _fill(lane: LaneEvents, config: CleanConfig) -> LaneEvents:
    for name, value in config.fill.items():
        column = NUMBER_PREFIX + name
        if column not in lane.columns:
            known = [other.removeprefix(NUMBER_PREFIX) for other in lane.columns if other.startswith(NUMBER_PREFIX)]
            has = ", ".join(known) or "none"
            raise UserError(f"clean.fill: the log has no number {name!r}{nearest(name, known)} (it has {has})")
        lane = lane.with_column(column, pc.fill_null(lane.columns[column], pa.scalar(value, pa.float32())))
    return lane


def _repeats(lane: LaneEvents) -> np.ndarray:
    history = np.flatnonzero(lane.is_history)
    owner, items, events = lane.owner[history], lane.items[history], lane.events[history]
    same = (owner[1:] == owner[:-1]) & (items[1:] == items[:-1]) & (events[1:] == events[:-1])
    repeats = np.zeros(len(lane), bool)
    repeats[history[1:][same]] = True
    return repeats


def _is_excluded(lane: LaneEvents, excluded: pa.Array | None) -> np.ndarray | None:
    if excluded is None or len(excluded) == 0:
        return None
    out: np.ndarray = pc.is_in(lane.item_ids, excluded).to_numpy(zero_copy_only=False)[lane.items]
    return out


def _short(lane: LaneEvents, counted: np.ndarray, enough: int) -> np.ndarray:
    """Return true [E] on all events of users with fewer than `enough` counted events."""
    running = np.concatenate([[0], np.cumsum(counted)])[lane.offsets]
    return np.repeat(np.diff(running) < enough, np.diff(lane.offsets))


def _beyond(lane: LaneEvents, most: int | None) -> np.ndarray | None:
    lengths = np.diff(lane.offsets)
    if most is None or len(lengths) == 0 or lengths.max() <= most:
        return None
    return np.arange(len(lane)) < np.repeat(lane.offsets[1:] - most, lengths)
