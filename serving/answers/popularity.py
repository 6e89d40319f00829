"""How often items were had in the last days of a run's dataset, counted when it is first asked for."""

import asyncio
from functools import lru_cache

import numpy as np

from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from raysys.runs import Run
from serving.errors import RefusedError

DAY = 86_400_000
"""Milliseconds."""
MOST_DAYS = 90
"""Days that are counted, back from the last event."""


class RecentPopularity:
    """History events of each item by day: of all splits, because whoever is served comes after them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = asyncio.Lock()
        self._counted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.counts = lru_cache(8)(self._counts)

    async def ready(self) -> None:
        """Return when the days are counted; the first call counts, in a thread of its own.

        Raises:
            RefusedError: the dataset is gone or has no times.
        """
        async with self._lock:
            if self._counted is None:
                try:
                    self._counted = await asyncio.to_thread(self._count)
                except UserError as error:
                    told = f"body.window: {error}; leave it out for the popularity of the whole training period"
                    raise RefusedError(409, "no_window", told) from None

    def _counts(self, days: int) -> np.ndarray:
        """Return how often each real item was had in the last days, f32 [I]; call `ready` first."""
        assert self._counted is not None, "not ready"
        back, items, counts = self._counted
        recent = back < days
        size = self._run.manifest.num_items
        return np.bincount(items[recent], counts[recent], minlength=size).astype(np.float32)

    def _count(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (days back, item from 0, events) of all pairs that have events."""
        dataset = Dataset.open(self._run.record.dataset)
        manifest = self._run.manifest
        if dataset.manifest.fingerprint != manifest.fingerprint:
            raise UserError(f"{dataset.path} has changed since the run was trained")
        if manifest.time_range is None:
            raise UserError(f"the events of {dataset.path} have no times")
        reader = ShardReader(dataset, labels=())
        size, last, keys, counts = manifest.num_items, manifest.time_range[1], [], []
        for part in reader.parts(np.arange(manifest.num_users)):
            back = (last - part.times) // DAY
            wanted = reader.is_history[part.events] & (part.items >= FIRST_ITEM) & (back < MOST_DAYS)
            found, times = np.unique(
                back[wanted].clip(min=0) * size + part.items[wanted] - FIRST_ITEM, return_counts=True
            )
            keys.append(found)
            counts.append(times)
        merged, at = np.unique(np.concatenate(keys), return_inverse=True)
        return merged // size, merged % size, np.bincount(at, np.concatenate(counts), minlength=len(merged))
