"""Puts the users of a dataset into a store, by the names of items and values, so that any run can read them."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.component import kind_of
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.reader import ShardReader, UserRows
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX
from raysys.errors import UserError
from raysys.progress import console, stage
from raysys.runs import Run
from serving.config import ServeConfig
from serving.state import Profile, StoredEvent, Value
from serving.stores import LoadedUser, Store, make_store

_USERS_AT_A_TIME = 4096


def seed(run: Run, config: ServeConfig) -> None:
    """Load the users of a run's dataset into the embedded store, where it has none of a dataset yet.

    Any other store is shared, and loaded by `raysys users load`.
    """
    if kind_of(config.store) == "embedded":
        asyncio.run(_seed(run, make_store(config.store)))


async def _seed(run: Run, store: Store) -> None:
    await store.open()
    try:
        if await store.loaded() == run.record.dataset_fingerprint:
            return
        dataset = Dataset.open(run.record.dataset)
        with stage(f"load the users of {dataset.path}") as remarks:
            remarks.append(f"{await load_users(dataset, store):,} users")
    except UserError as error:
        console.print(f"  warning: no user histories: {error}", soft_wrap=True, markup=False)
    finally:
        await store.close()


async def load_users(dataset: Dataset, store: Store) -> int:
    """Put all users into the store, each with all events, and note the dataset; returns how many.

    Events of items that training never saw are left out: the dataset does not know their names.

    Raises:
        StoreDownError: the store does not answer; calling again begins anew.
    """
    count = 0
    for first in range(0, dataset.manifest.num_users, _USERS_AT_A_TIME):
        count += await store.load(_users(dataset, first))
    await store.set_loaded(dataset.manifest.fingerprint)
    return count


def _users(dataset: Dataset, first: int) -> Iterator[LoadedUser]:
    rows = np.arange(first, min(first + _USERS_AT_A_TIME, dataset.manifest.num_users))
    reader = ShardReader(dataset, columns=True)
    found, names = reader.rows(rows), reader.user_ids(rows).to_pylist()
    events, features = _events(dataset, found), _features(dataset, first, len(rows))
    for place, (row, name) in enumerate(zip(rows.tolist(), names, strict=True)):
        own = [event for event in events[found.offsets[place] : found.offsets[place + 1]] if event is not None]
        yield LoadedUser(name, own, Profile(row, dataset.manifest.fingerprint, features[place]))


def _events(dataset: Dataset, rows: UserRows) -> list[StoredEvent | None]:
    """Return every event [E], None where its item has no name."""
    known = rows.items >= FIRST_ITEM
    ids = iter(dataset.vocabulary.decode(rows.items[known]).to_pylist())
    names, kinds = dataset.manifest.event_names, rows.events.tolist()
    labels = _dicts(rows.labels, len(known))
    values = {name: _named(dataset, name, codes) for name, codes in rows.context.categories.items()}
    context = _dicts({**rows.context.numbers, **values}, len(known))
    return [
        StoredEvent(next(ids), names[kind], time, labels[at] or None, context[at] or None) if is_known else None
        for at, (kind, time, is_known) in enumerate(zip(kinds, rows.times.tolist(), known.tolist(), strict=True))
    ]


def _named(dataset: Dataset, name: str, codes: np.ndarray) -> list[str | None]:
    values = dataset.category_values(name).item_ids.to_pylist()
    return [values[code - FIRST_ITEM] if code >= FIRST_ITEM else None for code in codes.tolist()]


def _dicts(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return what is known in each row."""
    found: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, values in columns.items():
        for own, value in zip(found, values.tolist() if isinstance(values, np.ndarray) else values, strict=True):
            if value is not None and value == value:  # NaN is unknown
                own[name] = value
    return found


def _features(dataset: Dataset, first: int, count: int) -> list[dict[str, Value]]:
    if not dataset.manifest.user_columns:
        return [{} for _ in range(count)]
    table: pa.Table = read_arrow(dataset.users_path).slice(first, count)
    prefixes = (CATEGORY_PREFIX, NUMBER_PREFIX)
    columns = {
        name.partition(".")[2]: table[name].to_pylist() for name in table.column_names if name.startswith(prefixes)
    }
    return _dicts(columns, count)
