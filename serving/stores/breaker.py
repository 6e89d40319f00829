"""Keeps a store that is down from holding up answers: after a failure calls fail at once, until it answers again."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from serving.catalogue.changes import ItemChange
from serving.stores.store import Loaded, LoadedUser, NewEvent, Store, StoreClosedError, StoreDownError
from serving.users.state import UserState

_T = TypeVar("_T")
_log = logging.getLogger("ray.serve")
PAUSE_S = 1.0
"""Seconds between two tries of a store that is down."""


class Breaker(Store):
    """Any store behind a circuit breaker; reads and writes break apart, for a store may refuse writes alone.

    Reads are tried again by a task in the background, so that no answer waits for it; writes by the next write.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.config)
        self._store, self._closed = store, False
        self._why_no_reads: str | None = None
        self._probe: asyncio.Task[None] | None = None
        self._why_no_writes, self._writes_again = "", 0.0

    async def open(self) -> None:
        """Open the store."""
        await self._store.open()

    async def close(self) -> None:
        """Close the store, and ask no more whether it is back."""
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
        await self._store.close()

    async def read(self, user_ids: Sequence[str], whole: bool = False) -> list[UserState]:
        """Read, unless the store is down."""
        return await self._reading(lambda: self._store.read(user_ids, whole))

    async def append(self, events: Sequence[NewEvent]) -> list[bool]:
        """Append, unless the store is down."""
        return await self._writing(lambda: self._store.append(events))

    async def merge(self, session: str, user_id: str) -> int:
        """Merge, unless the store is down."""
        return await self._writing(lambda: self._store.merge(session, user_id))

    async def delete(self, user_id: str) -> bool:
        """Delete, unless the store is down."""
        return await self._writing(lambda: self._store.delete(user_id))

    async def load(self, users: Sequence[LoadedUser]) -> None:
        """Load."""
        await self._store.load(users)

    async def loaded(self) -> Loaded | None:
        """Ask for the dataset, unless the store is down."""
        return await self._reading(self._store.loaded)

    async def set_loaded(self, dataset: Loaded | None) -> None:
        """Note the dataset."""
        await self._store.set_loaded(dataset)

    async def size(self, user_ids: Sequence[str]) -> int:
        """Measure, unless the store is down."""
        return await self._reading(lambda: self._store.size(user_ids))

    async def put_items(self, changes: Sequence[ItemChange]) -> int:
        """Note changes of items, unless the store is down."""
        return await self._writing(lambda: self._store.put_items(changes))

    async def items_since(self, version: int) -> tuple[int, list[ItemChange]]:
        """Ask for changes of items, unless the store is down."""
        return await self._reading(lambda: self._store.items_since(version))

    async def _reading(self, call: Callable[[], Awaitable[_T]]) -> _T:
        self._refuse_if_closed()
        if self._why_no_reads is not None:
            self._watch()
            raise StoreDownError(self._why_no_reads)
        try:
            return await call()
        except StoreDownError as error:
            if self._why_no_reads is None:
                _log.warning("the store does not answer: %s", error)
            self._why_no_reads = str(error)
            self._watch()
            raise

    async def _writing(self, call: Callable[[], Awaitable[_T]]) -> _T:
        self._refuse_if_closed()
        if time.monotonic() < self._writes_again:
            raise StoreDownError(self._why_no_writes)
        try:
            return await call()
        except StoreDownError as error:
            _log.warning("the store takes no writes: %s", error)
            self._why_no_writes, self._writes_again = str(error), time.monotonic() + PAUSE_S
            raise

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed")

    def _watch(self) -> None:
        """Have a task ask for the store until it is back; the one of a loop that has ended is replaced."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_task(self._wait_until_back())

    async def _wait_until_back(self) -> None:
        while self._why_no_reads is not None:
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(StoreDownError):
                await self._store.loaded()
                self._why_no_reads = None
        _log.warning("the store answers again")
