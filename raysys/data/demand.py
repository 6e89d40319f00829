"""How much items were asked for in a period: counted from the shards, in counts of the mean item."""

import numpy as np

from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split


def demand(dataset: Dataset, split: Split, window: int | None = None) -> np.ndarray:
    """Return the history events of a split per vocabulary index [V] f32, divided by their mean over real items.

    With `window` (ms) only those of its newest part count. 0 everywhere where there is no event.
    """
    reader, size = ShardReader(dataset, labels=()), dataset.manifest.num_items + FIRST_ITEM
    counts_V = np.zeros(size)
    rows = dataset.rows_with_targets(split)
    newest = -1 if window is None else _newest(reader, rows, split)
    for events in reader.parts(rows):
        chosen = (events.marks == split) & reader.is_history[events.events]
        if window is not None:
            chosen &= events.times > newest - window
        counts_V += np.bincount(events.items[chosen], minlength=size)
    counts_V[:FIRST_ITEM] = 0
    mean = counts_V.sum() / max(size - FIRST_ITEM, 1)
    return (counts_V / mean if mean else counts_V).astype(np.float32)


def _newest(reader: ShardReader, rows: np.ndarray, split: Split) -> int:
    found = [events.times[events.marks == split].max(initial=0) for events in reader.parts(rows)]
    return int(max(found, default=0))
