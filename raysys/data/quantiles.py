"""Quantiles of numbers over the training period: the buckets in which models see them."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raysys.data.columns import values_of
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.reader import ShardReader
from raysys.data.schema import Split

_ENOUGH_EVENTS = 1_000_000


@dataclass(frozen=True)
class Quantiles:
    """Inner quantiles by the name of a number, f32 ascending; zeros where training knows no value."""

    labels: Mapping[str, np.ndarray]
    context: Mapping[str, np.ndarray]
    users: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]


@functools.lru_cache(maxsize=1)
def training_quantiles(dataset: Dataset, count: int) -> Quantiles:
    """Return `count` quantiles of every number, evenly apart, over training events, their users and their items.

    Of very many events the first million counts: shards hold users in no order, so that it is a fair sample.
    """
    events = _training_events(dataset)
    trained = dataset.rows["train_events"].to_numpy() > 0
    manifest = dataset.manifest
    users = values_of(read_arrow(dataset.users_path)).numbers if manifest.user_columns.numbers else {}
    items = values_of(dataset.catalog.table).numbers
    return Quantiles(
        labels={name: _quantiles(events[f"label.{name}"], count) for name in manifest.labels},
        context={name: _quantiles(events[f"number.{name}"], count) for name in manifest.numbers},
        users={name: _quantiles(values[trained], count) for name, values in users.items()},
        items={name: _quantiles(values, count) for name, values in items.items()},
    )


def _training_events(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return labels and numbers of training events, by prefixed name."""
    reader, rows = ShardReader(dataset, columns=True), dataset.rows_with_targets(Split.TRAIN)
    parts: list[dict[str, np.ndarray]] = []
    found = 0
    for events in reader.parts(rows):
        train = events.marks == Split.TRAIN
        named = {f"label.{name}": values[train] for name, values in events.labels.items()}
        parts.append(named | {f"number.{name}": values[train] for name, values in events.context.numbers.items()})
        found += int(train.sum())
        if found >= _ENOUGH_EVENTS:
            break
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _quantiles(values: np.ndarray, count: int) -> np.ndarray:
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros(count, np.float32)
    return np.quantile(known, np.arange(1, count + 1) / (count + 1)).astype(np.float32)
