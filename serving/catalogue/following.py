"""Keeps a replica up with what the store says of items: all of it before the replica is ready, then every change."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from raysys.data.schema import FIRST_ITEM
from raysys.runs import Run
from serving.catalogue.changes import Fields, ItemChange, merged
from serving.catalogue.live import LiveItems
from serving.catalogue.reading import NO_NEW_ITEMS, ReadItems
from serving.stores import Store, StoreClosedError, StoreDownError
from serving.waiting import ScorersDownError

_log = logging.getLogger("ray.serve")
_DOWN = (StoreDownError, ScorersDownError)


class Follower:
    """Looks at the version every `store.poll_items_s` seconds, in a task; snapshots are made in threads."""

    def __init__(
        self,
        run: Run,
        store: Store,
        read: Callable[[Mapping[str, Fields]], Awaitable[ReadItems]],
        use: Callable[[LiveItems], None],
    ) -> None:
        """Take what reads new items, and what is told of every new snapshot."""
        self.live = LiveItems(run)
        """The newest snapshot."""
        self._run, self._store, self._read, self._use = run, store, read, use
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Take what is there, and follow from now on; what is down is followed once it is back."""
        try:
            await self.sync()
        except _DOWN as error:
            _log.warning("changes of items are not known yet: %s", error)
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def sync(self) -> None:
        """Take what has changed; where the version is one before that of the last snapshot, all of it anew.

        Raises:
            StoreDownError: the last snapshot stays.
            ScorersDownError: the same, because nobody reads new items.
        """
        async with self._one_at_a_time:
            before = self.live
            version, further = await self._store.items_since(before.version)
            if version != before.version:
                earlier = before.changes if version >= before.version else {}
                changes, unknown = await asyncio.to_thread(self._told, earlier, further)
                new = await self._read(unknown) if unknown else NO_NEW_ITEMS
                self.live = await asyncio.to_thread(LiveItems, self._run, version, changes, new)
                self._use(self.live)

    def fault(self) -> BaseException | None:
        """Return why nothing is followed any more; None while all is well."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def stop(self) -> None:
        """Follow no more; the task ends with its next look."""
        self._stopped = True

    def _told(
        self, earlier: Mapping[str, Fields], further: Sequence[ItemChange]
    ) -> tuple[dict[str, Fields], dict[str, Fields]]:
        """Return all that is told of items, and that of items which the run does not know."""
        changes = merged(earlier, further)
        known = self._run.vocabulary.lookup(list(changes)) >= FIRST_ITEM
        new = {name: own for (name, own), is_known in zip(changes.items(), known, strict=True) if not is_known}
        return changes, new

    async def _follow(self) -> None:
        while not self._stopped:
            await asyncio.sleep(self._store.config.poll_items_s)
            try:
                await self.sync()
            except StoreClosedError:
                return
            except _DOWN:
                continue
