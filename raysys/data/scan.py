"""One pass over the shards of a dataset: what only its events can tell, summed shard by shard in bounded memory.

A user is in one shard, so pairs of (user, item) and users are counted exactly. Legend of shapes: K kinds of events,
E events and P pairs of one shard, D bins of days.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from raysys.data.dataset import Manifest
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, LABEL_PREFIX, NUMBER_PREFIX, Split

DAY = 86_400_000
HOURS_OF_WEEK = 168
_HOUR = 3_600_000
_MONDAY = 72  # 1970-01-01 was a Thursday: hours between the Monday before and it
_MOST_BINS = 4_000
_MOST_CELLS = 1 << 22  # of a table of pairs by kinds that is held at once


class Moments:
    """Count, mean, spread and range of a column of numbers that arrives in parts."""

    def __init__(self, num_kinds: int) -> None:
        self.known_by_kind = np.zeros(num_kinds, np.int64)
        self.mean = 0.0
        self.low, self.high = np.inf, -np.inf
        self._squares = 0.0

    @property
    def count(self) -> int:
        """How many values are known."""
        return int(self.known_by_kind.sum())

    @property
    def deviation(self) -> float:
        """Standard deviation of the known values."""
        return float((self._squares / max(self.count, 1)) ** 0.5)

    def add(self, values: np.ndarray, kinds: np.ndarray) -> None:
        """Add values [E] f32 (NaN = unknown) of events of these kinds [E]."""
        known = ~np.isnan(values)
        found, before = values[known].astype(np.float64), self.count
        if len(found):
            mean = float(found.mean())
            total, apart = before + len(found), mean - self.mean
            self._squares += float(np.sum((found - mean) ** 2)) + apart**2 * before * len(found) / total
            self.mean += apart * len(found) / total
            self.low, self.high = min(self.low, float(found.min())), max(self.high, float(found.max()))
        self.known_by_kind += np.bincount(kinds[known], minlength=len(self.known_by_kind))


class Scan:
    """Sums over shards; `add` each shard once."""

    def __init__(self, manifest: Manifest, num_indices: int) -> None:
        """Begin with nothing; `num_indices` is the size of the vocabulary, PAD and UNKNOWN included."""
        num_kinds = max(len(manifest.event_names), 1)
        self.num_indices = num_indices
        self.events = np.zeros((num_kinds, len(Split) - 1), np.int64)  # [K, mark + 1]
        self.users = np.zeros(num_kinds, np.int64)  # [K] users with an event of the kind
        self.pairs = 0  # distinct (user, item), items outside the vocabulary left out
        self.shared_pairs = np.zeros((num_kinds, num_kinds), np.int64)  # [K, K] pairs that have events of both kinds
        self.outside = 0  # events whose item is not in the vocabulary
        self.first_day, self.days_per_bin, num_bins = _bins(manifest.time_range)
        self.days = np.zeros((num_kinds, num_bins), np.int64)  # [K, D]
        self.hours = np.zeros(HOURS_OF_WEEK if num_bins else 0, np.int64)  # events by hour of the week, from Monday
        floats = [LABEL_PREFIX + name for name in manifest.labels] + [NUMBER_PREFIX + name for name in manifest.numbers]
        self.columns: Mapping[str, Moments] = {name: Moments(num_kinds) for name in floats}
        self.categories: Mapping[str, np.ndarray] = {  # name -> events by index
            name: np.zeros(size, np.int64) for name, size in manifest.categories.items()
        }

    def add(self, shard: pa.Table) -> None:
        """Add the users of a shard."""
        if not shard.num_rows:
            return
        lists = {name: shard[name].combine_chunks() for name in ("items", "events", "times", "marks")}
        kinds, marks = (lists[name].values.to_numpy().astype(np.int64) for name in ("events", "marks"))
        owner = np.repeat(np.arange(shard.num_rows), np.diff(lists["items"].offsets.to_numpy()))
        num_kinds = len(self.users)
        by_mark = np.bincount(kinds * (len(Split) - 1) + marks + 1, minlength=self.events.size)
        self.events += by_mark.reshape(self.events.shape)
        self._add_pairs(owner, lists["items"].values.to_numpy(), kinds)
        has = np.zeros((shard.num_rows, num_kinds), bool)
        has[owner, kinds] = True
        self.users += has.sum(axis=0)
        if len(self.hours):
            self._add_times(lists["times"].values.to_numpy(), kinds)
        for name, moments in self.columns.items():
            moments.add(shard[name].combine_chunks().values.to_numpy(zero_copy_only=False), kinds)
        for name, counts in self.categories.items():
            codes = shard[CATEGORY_PREFIX + name].combine_chunks().values.to_numpy()
            counts += np.bincount(codes, minlength=len(counts))

    def _add_pairs(self, owner: np.ndarray, items: np.ndarray, kinds: np.ndarray) -> None:
        known, num_kinds = items >= FIRST_ITEM, len(self.users)
        self.outside += len(items) - int(known.sum())
        pairs = owner[known] * self.num_indices + items[known]
        keys = np.sort(pairs * num_kinds + kinds[known])
        keys = keys[np.diff(keys, prepend=-1) > 0]
        pair, kind = np.divmod(keys, num_kinds)
        row = np.cumsum(np.diff(pair, prepend=-1) > 0) - 1
        num_pairs = int(row[-1]) + 1 if len(row) else 0
        self.pairs += num_pairs
        step = max(1, _MOST_CELLS // num_kinds)
        for low in range(0, num_pairs, step):
            here = slice(*np.searchsorted(row, [low, low + step]))
            has = np.zeros((min(step, num_pairs - low), num_kinds), np.float32)
            has[row[here] - low, kind[here]] = 1
            self.shared_pairs += (has.T @ has).astype(np.int64)

    def _add_times(self, times: np.ndarray, kinds: np.ndarray) -> None:
        timed = times != 0  # 0 stands for no time
        times, kinds = times[timed], kinds[timed]
        bins = (times // DAY - self.first_day) // self.days_per_bin
        self.days += np.bincount(kinds * self.days.shape[1] + bins, minlength=self.days.size).reshape(self.days.shape)
        self.hours += np.bincount((times // _HOUR + _MONDAY) % HOURS_OF_WEEK, minlength=HOURS_OF_WEEK)


def _bins(time_range: tuple[int, int] | None) -> tuple[int, int, int]:
    """Return (first day since 1970, days per bin, number of bins): days, or more where these would be too many."""
    if time_range is None:
        return 0, 1, 0
    first, last = (time // DAY for time in time_range)
    days_per_bin = -(-(last - first + 1) // _MOST_BINS)
    return first, days_per_bin, (last - first) // days_per_bin + 1
