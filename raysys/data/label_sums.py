"""Sums of labels over training events, by item or context, apart by fold: what target encodings are made of.

Legend of shapes: V vocabulary, E events, K folds, G groups, L labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import Split


@dataclass(frozen=True)
class LabelSums:
    """Known labels of training events by the fold of the user and the group of the event."""

    sums_KGL: np.ndarray  # f64
    squares_KGL: np.ndarray  # f64
    counts_KGL: np.ndarray  # f64


def label_sums(
    dataset: Dataset, groups: Mapping[str, np.ndarray], folds: int, context: Mapping[str, str] | None = None
) -> dict[str, LabelSums]:
    """Return the sums for each way to group events.

    A user's fold is his row of the dataset modulo `folds`. Labels come in the order of the manifest.

    Args:
        dataset: whose training events are summed.
        groups: ways to group by item: the group of every vocabulary index [V], by name.
        folds: parts of the users.
        context: ways to group by context: categories of events, by name.
    """
    context = context or {}
    sizes = {name: int(group_V.max(initial=0)) + 1 for name, group_V in groups.items()}
    sizes |= {name: dataset.manifest.categories[category] for name, category in context.items()}
    shape = (folds, len(dataset.manifest.labels))
    found = {name: [np.zeros((shape[0], size, shape[1])) for _ in range(3)] for name, size in sizes.items()}
    reader, rows = ShardReader(dataset, columns=bool(context)), dataset.rows_with_targets(Split.TRAIN)
    for events in reader.parts(rows):
        owner = np.repeat(events.users, np.diff(events.offsets))
        group_of = {name: group_V[events.items] for name, group_V in groups.items()}
        group_of |= {name: events.context.categories[category] for name, category in context.items()}
        for at, label in enumerate(dataset.manifest.labels):
            known = (events.marks == Split.TRAIN) & np.isfinite(events.labels[label])
            values = events.labels[label][known].astype(np.float64)
            for name, group_E in group_of.items():
                place = owner[known] % folds * sizes[name] + group_E[known]
                for table, weights in zip(found[name], (values, values**2, np.ones_like(values)), strict=True):
                    added = np.bincount(place, weights, minlength=folds * sizes[name])
                    table[:, :, at] += added.reshape(folds, sizes[name])
    return {name: LabelSums(*tables) for name, tables in found.items()}
