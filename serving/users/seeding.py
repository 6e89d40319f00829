"""Puts the users of a dataset into a store, by the names of items and values, so that any run can read them.

Columns become JSON text by Arrow's kernels: a loop over users puts together what is ready, and none goes over events.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic_core import to_json

from raysys.component import kind_of
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.reader import ShardReader, UserRows
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX
from raysys.errors import UserError
from raysys.progress import console, stage
from raysys.runs import Run
from serving.config import ServeConfig
from serving.stores import Loaded, LoadedUser, Store, StoreDownError, make_store
from serving.users.state import pack_user

_USERS_AT_A_TIME = 4096
_SAY_EVERY_S = 10.0
_MEASURED = 1000  # users whose size stands for all


@dataclass(frozen=True)
class Loading:
    """What a load did."""

    users: int
    seconds: float
    bytes_per_user: float


def seed(run: Run, config: ServeConfig) -> None:
    """Load the users of a run's dataset into the embedded store, where it has not that dataset or a later one.

    Any other store is shared, and loaded by `raysys users load`: there it only warns.
    """
    asyncio.run(_seed(run, config))


async def _seed(run: Run, config: ServeConfig) -> None:
    store = make_store(config.store)
    await store.open()
    try:
        loaded = await store.loaded()
        if loaded is not None and loaded.fingerprint == run.record.dataset_fingerprint:
            return
        if kind_of(config.store) != "embedded":
            _warn("the store does not hold the users of the run's dataset; `raysys users load` puts them in")
            return
        dataset = Dataset.open(run.record.dataset)
        if loaded is None or loaded.until <= _until(dataset):
            await load_users(dataset, store)
        else:
            _warn("the store keeps the users of a later dataset; `raysys users load` puts in those of the run's")
    except (UserError, StoreDownError) as error:
        _warn(f"no user histories: {error}")
    finally:
        await store.close()


async def load_users(dataset: Dataset, store: Store) -> Loading:
    """Put all users into the store, each with the newest events, and note the dataset.

    Events that are no history and events of items that training never saw are left out: no answer comes from the first,
    and of the second the dataset does not know the names.

    Raises:
        StoreDownError: the store does not answer; calling again begins anew.
    """
    began = said = time.monotonic()
    total, names = dataset.manifest.num_users, []
    writer = _Writer(dataset, store.config.max_events)
    with stage(f"load the users of {dataset.path}") as remarks:
        await store.set_loaded(None)
        for first in range(0, total, _USERS_AT_A_TIME):
            users = list(writer.users(np.arange(first, min(first + _USERS_AT_A_TIME, total))))
            await store.load(users)
            names += [one.user_id for one in users[:: max(total // _MEASURED, 1)]]
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                console.print(f"  {first + len(users):,} of {total:,} users", soft_wrap=True)
        await store.set_loaded(Loaded(dataset.manifest.fingerprint, total, _until(dataset)))
        size = await store.size(names) / max(len(names), 1)
        remarks.append(f"{total:,} users, about {size:,.0f} bytes each")
    return Loading(total, time.monotonic() - began, size)


def _until(dataset: Dataset) -> int:
    return dataset.manifest.time_range[1] if dataset.manifest.time_range else 0


def _warn(text: str) -> None:
    console.print(f"  warning: {text}", soft_wrap=True, markup=False)


class _Writer:
    """Writes users of one dataset as a store keeps them."""

    def __init__(self, dataset: Dataset, max_events: int) -> None:
        manifest = dataset.manifest
        self._dataset, self._max_events = dataset, max_events
        self._fingerprint = manifest.fingerprint
        self._reader = ShardReader(dataset, columns=True)
        self._items = _quoted(dataset.vocabulary.item_ids)
        self._kinds = _quoted(pa.array(manifest.event_names, pa.string()))
        self._values = {name: _quoted(dataset.category_values(name).item_ids) for name in manifest.categories}

    def users(self, rows: np.ndarray) -> Iterator[LoadedUser]:
        """Yield the users in these rows of the dataset, which follow each other."""
        found = self._reader.rows(rows)
        owners = np.repeat(np.arange(len(rows)), np.diff(found.offsets))
        last = np.zeros(len(rows), np.int64)
        np.maximum.at(last, owners, found.times)
        kept = self._kept(found, owners)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners[kept], minlength=len(rows)))]).astype(np.int32)
        events = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), self._events(found, kept)), ",")
        columns = (rows, self._reader.user_ids(rows), last, self._features(int(rows[0]), len(rows)), events)
        for row, name, newest, features, own in zip(*(column.tolist() for column in columns), strict=True):
            yield LoadedUser(name, newest, pack_user(self._fingerprint, row, features, own))

    def _kept(self, rows: UserRows, owners: np.ndarray) -> np.ndarray:
        """Return the places of the events that are kept [K]: of each user the newest that answers come from."""
        known = np.flatnonzero((rows.items >= FIRST_ITEM) & self._reader.is_history[rows.events])
        ends = np.cumsum(np.bincount(owners[known], minlength=len(rows.users)))
        return known[ends[owners[known]] - np.arange(len(known)) <= self._max_events]

    def _events(self, rows: UserRows, kept: np.ndarray) -> pa.Array:
        """Return each event as `StoredEvent.pack` writes it [K]."""
        items = self._items.take(pa.array(rows.items[kept] - FIRST_ITEM))
        kinds = self._kinds.take(pa.array(rows.events[kept]))
        times = pa.array(rows.times[kept]).cast(pa.string())
        labels = _objects({name: _texts(values[kept]) for name, values in rows.labels.items()}, len(kept))
        numbers = {name: _texts(values[kept]) for name, values in rows.context.numbers.items()}
        codes = rows.context.categories
        named = {name: values.take(_places(codes[name][kept])) for name, values in self._values.items()}
        context = _objects({**numbers, **named}, len(kept))
        some = pc.if_else(pc.and_(pc.is_null(labels), pc.is_valid(context)), "null", labels)
        return _around(
            "[", pc.binary_join_element_wise(items, kinds, times, some, context, ",", null_handling="skip"), "]"
        )

    def _features(self, first: int, count: int) -> pa.Array:
        """Return the features of each user as a JSON object [U]."""
        if self._users is None:
            return pa.array(["{}"] * count)
        rows = self._users.slice(first, count)
        found = [{} for _ in range(count)]  # type: list[dict[str, object]]
        for name in rows.column_names:
            for own, value in zip(found, rows[name].to_pylist(), strict=True):
                if value is not None and value == value:  # NaN is unknown
                    own[name.partition(".")[2]] = value
        return pa.array([to_json(one).decode() for one in found])

    @cached_property
    def _users(self) -> pa.Table | None:
        if not self._dataset.manifest.user_columns:
            return None
        table = read_arrow(self._dataset.users_path)
        return table.select([name for name in table.column_names if name.startswith((CATEGORY_PREFIX, NUMBER_PREFIX))])


def _quoted(values: pa.Array) -> pa.Array:
    """Return texts as JSON strings."""
    return pa.array([to_json(value).decode() for value in values.to_pylist()], pa.string())


def _texts(numbers: np.ndarray) -> pa.Array:
    """Return numbers as JSON, null where they are not known."""
    return pa.array(numbers, mask=~np.isfinite(numbers)).cast(pa.string())


def _places(codes: np.ndarray) -> pa.Array:
    """Return the places of values in their list, null where they are not known."""
    return pa.array(codes - FIRST_ITEM, mask=codes < FIRST_ITEM)


def _objects(columns: Mapping[str, pa.Array], count: int) -> pa.Array:
    """Return JSON objects of what is known in each row, null where nothing is."""
    if not columns:
        return pa.nulls(count, pa.string())
    entries = [
        pc.fill_null(pc.binary_join_element_wise(to_json(name).decode() + ":", values, ",", ""), "")
        for name, values in columns.items()
    ]
    inner = pc.utf8_rtrim(pc.binary_join_element_wise(*entries, ""), ",")
    return pc.if_else(pc.equal(inner, ""), pa.scalar(None, pa.string()), _around("{", inner, "}"))


def _around(before: str, texts: pa.Array, after: str) -> pa.Array:
    return pc.binary_join_element_wise(before, texts, after, "")
