"""A large log of clicks for the benchmarks, written piece by piece as parquet: the same bytes for the same seed.

It is what logs are: few items and users have most of the events, one user (a crawler) has a hundredth of all, times
ascend with some disorder, and one row in a thousand is bad.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
NUM_DAYS = 30
ROWS_PER_FILE = 1_000_000
DIRTY = 0.0002
"""Share of each of the five kinds of bad rows."""
_EDITION = 1  # raise it whenever the log changes: the folder's name holds it
_FUTURE_MS = 4_102_444_800_000  # 2100-01-01
_JITTER_MS = 600_000
_SCATTER = 2_654_435_761  # prime: rank -> number is one to one, so ids say nothing of popularity
_EVENTS = pa.array(["view", "click", "purchase"])


def click_log(events: int, items: int, seed: int = 7) -> Path:
    """Return the folder of a log with so many rows, made when it is not there yet: 1M rows and one row group a file."""
    cache = Path(os.environ.get("RAYSYS_BENCH") or Path(tempfile.gettempdir()) / "raysys-bench")
    folder = cache / f"clicks-{events}-{items}-{seed}-{_EDITION}"
    if folder.is_dir():
        return folder
    half = folder.with_name(f"{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    names = _names("u", max(1, events // 20)), _names("item", items)
    for part, first in enumerate(range(0, events, ROWS_PER_FILE)):
        rows = min(ROWS_PER_FILE, events - first)
        table = _rows(np.random.default_rng([seed, part]), names, first, rows, events)
        pq.write_table(table, half / f"part-{part:04d}.parquet", row_group_size=ROWS_PER_FILE)
    half.replace(folder)
    return folder


def _names(prefix: str, count: int) -> pa.Array:
    """Return the ids by rank: the first are drawn most often."""
    numbers = pa.array(np.arange(count, dtype=np.int64) * _SCATTER % count).cast(pa.string())
    return pc.binary_join_element_wise(prefix, numbers, "")


def _rows(draw: np.random.Generator, names: tuple[pa.Array, pa.Array], first: int, rows: int, events: int) -> pa.Table:
    users, items = names
    user = (len(users) * draw.beta(0.5, 2.0, rows)).astype(np.int64)
    user_ids = users.take(pa.array(np.minimum(user, len(users) - 1)))
    user_ids = pc.if_else(pa.array(draw.random(rows) < 0.01), "crawler", user_ids)
    item_ids = items.take(pa.array((len(items) * draw.random(rows) ** 3).astype(np.int64)))
    kind = np.searchsorted([0.8, 0.95], draw.random(rows), side="right")
    times = START_MS + (first + np.arange(rows)) * (NUM_DAYS * DAY_MS - _JITTER_MS) // events
    times += draw.integers(_JITTER_MS, size=rows)
    rating = (draw.integers(1, 11, size=rows) / 2).astype(np.float32)
    return _spoil(draw, user_ids, item_ids, _EVENTS.take(pa.array(kind)), times, rating)


def _spoil(
    draw: np.random.Generator,
    user_ids: pa.Array,
    item_ids: pa.Array,
    events: pa.Array,
    times: np.ndarray,
    rating: np.ndarray,
) -> pa.Table:
    """Make the table with bad rows: no user, no item, a time to come, a rating that is no number, a row repeated."""
    fate = np.searchsorted(np.arange(1, 6) * DIRTY, draw.random(len(times)), side="right")
    times[fate == 2] = _FUTURE_MS
    rating[fate == 3] = np.nan
    table = pa.table(
        {
            "user_id": pc.if_else(pa.array(fate == 0), pa.scalar(None, pa.string()), user_ids),
            "item_id": pc.if_else(pa.array(fate == 1), " ", item_ids),
            "event": events,
            "ts": times,
            "rating": rating,
        }
    )
    source = np.arange(len(times))
    again = np.flatnonzero(fate == 4)
    source[again] = np.maximum(again - 1, 0)
    return table.take(pa.array(source))
