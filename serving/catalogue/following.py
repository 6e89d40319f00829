"""Keeps a replica up with what the store says of items: all of it before the replica is ready, then every change."""

import asyncio
import logging
from collections.abc import Callable

from serving.catalogue.live import LiveItems, Overlay
from serving.stores import Store, StoreClosedError, StoreDownError

_log = logging.getLogger("ray.serve")


class Follower:
    """Looks at the version every `store.poll_items_s` seconds, in a task; snapshots are made in threads."""

    def __init__(self, store: Store, overlay: Overlay, use: Callable[[LiveItems], None]) -> None:
        """Take what is told of every new snapshot."""
        self.overlay = overlay
        self._store, self._use = store, use
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def live(self) -> LiveItems:
        """The newest snapshot."""
        return self.overlay.live

    async def start(self) -> None:
        """Take what is there, and follow from now on; a store that is down is followed once it is back."""
        try:
            await self.sync()
        except StoreDownError as error:
            _log.warning("changes of items are not known yet: %s", error)
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def sync(self) -> None:
        """Take what has changed.

        Raises:
            StoreDownError: the last snapshot stays.
        """
        async with self._one_at_a_time:
            known = self.live.version
            version, changes = await self._store.items_since(known)
            if version != known:
                self._use(await asyncio.to_thread(self.overlay.apply, version, changes))

    def fault(self) -> BaseException | None:
        """Return why nothing is followed any more; None while all is well."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def stop(self) -> None:
        """Follow no more; the task ends with its next look."""
        self._stopped = True

    async def _follow(self) -> None:
        while not self._stopped:
            await asyncio.sleep(self._store.config.poll_items_s)
            try:
                await self.sync()
            except StoreClosedError:
                return
            except StoreDownError:
                continue
