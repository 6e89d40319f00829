"""Live state in a Redis server: for several machines. All replicas share it; what it keeps is the server's business."""

import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_core import from_json, to_json

from raysys.component import FrozenConfig
from raysys.errors import UserError
from serving.catalogue.changes import ItemChange, by_item
from serving.stores.scripts import APPEND, ITEMS_SINCE, LOAD, MERGE, PUT_ITEMS
from serving.stores.store import Loaded, LoadedUser, NewEvent, Store, StoreConfig, StoreDownError, digest, is_session
from serving.users.state import TAG, UserState, joined

_VARIABLE = re.compile(r"^env (\w+)$")
_LOADING_TIMEOUT_S = 30.0  # a pipeline of hundreds of users, on a busy server
_AT_A_TIME = 256
_CONNECTIONS = 8  # of one replica: a round trip is short, and a new connection takes several
_LISTS = ("live", "other")


class Redis(Store):
    """A Redis server, asked once for a read and once for an append."""

    class Config(StoreConfig):
        """Which server."""

        kind: Literal["redis"] = "redis"
        url: str = "redis://127.0.0.1:6379/0"
        """`redis://HOST:PORT/DB`, `rediss://` for TLS, `unix://PATH`; or `env NAME`: the variable that holds the URL. A
        URL with a password comes from a variable, of every node that runs a replica."""
        prefix: str | None = None
        """Begins every key; null takes `raysys:PROJECT:`."""
        connect_timeout_s: float = Field(0.2, gt=0)
        """Seconds to wait for a connection."""
        timeout_s: float = Field(0.2, gt=0)
        """Seconds to wait for an answer; later the request goes on without the store."""

        @field_validator("url")
        @classmethod
        def _without_secrets(cls, value: str) -> str:
            if not _VARIABLE.match(value):
                if not value.startswith(("redis://", "rediss://", "unix://")):
                    raise ValueError(
                        "a URL redis://HOST:PORT/DB, rediss://... or unix://PATH, or `env NAME` is expected"
                    )
                if urlsplit(value).password or "password=" in value:
                    raise ValueError("the password must not stand in a config: put the URL into a variable, `env NAME`")
            return value

        def with_place(self, root: str, project: str) -> Self:
            """Return the config with a prefix."""
            return self if self.prefix is not None else self.model_copy(update={"prefix": f"raysys:{project}:"})

        def place(self) -> str:
            """Return the URL.

            Raises:
                UserError: the variable that should hold it is not set.
            """
            if (match := _VARIABLE.match(self.url)) is None:
                return self.url
            if not (found := os.environ.get(match[1])):
                raise UserError(f"store.url: ${match[1]} is not set here; set it to the URL of the Redis server")
            return found

    def __init__(self, config: FrozenConfig) -> None:
        super().__init__(config)
        assert self.config.prefix is not None, "settled by `with_places`"
        self._client: Any = None
        self._scripts: dict[str, Any] = {}

    async def open(self) -> None:
        """Prepare the client; connections are made, and made again, when they are needed.

        Raises:
            UserError: redis is not installed, or the URL is none.
        """
        self._client = _client(self.config, self.config.timeout_s)
        texts = {"append": APPEND, "merge": MERGE, "put_items": PUT_ITEMS}
        self._scripts = {name: self._client.register_script(text) for name, text in texts.items()}

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def read(self, user_ids: Sequence[str], whole: bool = False) -> list[UserState]:
        """Return what was loaded of each user and posted since."""
        lists, most = _LISTS if whole else _LISTS[:1], self.config.max_events
        async with self._server() as client:
            pipeline = client.pipeline(transaction=False)
            for user_id in user_ids:
                pipeline.get(self._key(user_id, "loaded"))
                for name in lists:
                    pipeline.lrange(self._key(user_id, name), -most, -1)
            found = iter(await pipeline.execute())
        return [joined(next(found), [one for _ in lists for one in next(found)], most * len(lists)) for _ in user_ids]

    async def append(self, events: Sequence[NewEvent]) -> list[bool]:
        """Add the events whose ids are new, by one script."""
        keys: list[bytes] = []
        values: list[Any] = [secrets.token_bytes(8), _ms(self.config.remember_ids_s), self.config.max_events]
        for one in events:
            keys += [self._prefix + b"id:" + digest(one.event_id), self._key(one.user_id, _LISTS[not one.is_history])]
            lasts_ms = _ms(self.config.session_s) if is_session(one.user_id) else 0
            values += [one.event.time, one.event.pack(), lasts_ms]
        async with self._server():
            return [found == 1 for found in await self._scripts["append"](keys, values)]

    async def merge(self, session: str, user_id: str) -> int:
        """Move the events by one script."""
        keys = [self._key(owner, name) for name in _LISTS for owner in (session, user_id)]
        async with self._server():
            moved: int = await self._scripts["merge"](keys, [self.config.max_events])
        return moved

    async def delete(self, user_id: str) -> bool:
        """Remove what was loaded and what was posted."""
        async with self._server() as client:
            return bool(await client.delete(*self._keys(user_id)))

    async def load(self, users: Sequence[LoadedUser]) -> None:
        """Put in users, some hundred in one round trip."""
        async with self._patiently() as client:
            script = client.register_script(LOAD)
            for first in range(0, len(users), _AT_A_TIME):
                pipeline = client.pipeline(transaction=False)
                for one in users[first : first + _AT_A_TIME]:
                    await script(self._keys(one.user_id), [one.packed, one.last], client=pipeline)
                await pipeline.execute()

    async def loaded(self) -> Loaded | None:
        """Return the fact that `set_loaded` noted."""
        async with self._server() as client:
            found = await client.get(self._prefix + b"loaded")
        return found and Loaded(*from_json(found))

    async def set_loaded(self, dataset: Loaded | None) -> None:
        """Note the fact."""
        async with self._patiently() as client:
            if dataset is None:
                await client.delete(self._prefix + b"loaded")
                return
            await self._remove_others(client, dataset.fingerprint[:TAG].encode())
            await client.set(self._prefix + b"loaded", to_json(dataset))

    async def size(self, user_ids: Sequence[str]) -> int:
        """Return the bytes that the server's memory holds for the keys and values."""
        async with self._server() as client:
            pipeline = client.pipeline(transaction=False)
            for key in (key for user_id in user_ids for key in self._keys(user_id)):
                pipeline.memory_usage(key)
            return sum(found or 0 for found in await pipeline.execute())

    async def put_items(self, changes: Sequence[ItemChange]) -> int:
        """Note changes of items by one script."""
        fields = [
            text
            for one in changes
            for name, value in one.fields.items()
            for text in (to_json([one.item_id, name]), to_json(value))
        ]
        async with self._server():
            version: int = await self._scripts["put_items"](self._item_keys(), fields)
        return version

    async def items_since(self, version: int) -> tuple[int, list[ItemChange]]:
        """Return what changed; mostly nothing, which is one GET."""
        async with self._server() as client:
            if int(await client.get(self._item_keys()[0]) or 0) == version:
                return version, []
        async with self._patiently() as client:
            newest, names, values = await client.register_script(ITEMS_SINCE)(self._item_keys(), [version])
        owners = [from_json(name) for name in names]
        fields = ((*owner, from_json(value)) for owner, value in zip(owners, values, strict=True))
        return newest, by_item(fields)

    @property
    def _prefix(self) -> bytes:
        prefix: str = self.config.prefix
        return prefix.encode()

    def _key(self, user_id: str, what: str) -> bytes:
        return self._prefix + f"{{{user_id}}}:{what}".encode()  # a cluster keeps together what has the same {part}

    def _keys(self, user_id: str) -> list[bytes]:
        return [self._key(user_id, what) for what in ("loaded", *_LISTS)]

    def _item_keys(self) -> list[bytes]:
        return [self._prefix + b"items{items}:" + what for what in (b"version", b"order", b"values")]

    async def _remove_others(self, client: Any, tag: bytes) -> None:
        """Remove the users of datasets with other tags."""
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", self._prefix) + b"{*}:loaded"
        cursor = -1
        while cursor != 0:
            cursor, keys = await client.scan(max(cursor, 0), match=pattern, count=2000)
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.getrange(key, 0, TAG - 1)
            tags = await pipeline.execute()
            if old := [key for key, own in zip(keys, tags, strict=True) if own != tag]:
                await client.delete(*old)

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[Any]:
        with _explained():
            if self._client is None:
                await self.open()
            yield self._client

    @asynccontextmanager
    async def _patiently(self) -> AsyncIterator[Any]:
        """Give a client of its own, which waits longer."""
        with _explained():
            client = _client(self.config, _LOADING_TIMEOUT_S)
            try:
                yield client
            finally:
                await client.aclose()


@contextmanager
def _explained() -> Iterator[None]:
    """Say StoreDownError of whatever keeps the server from doing its work."""
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as error:  # down, slow, loading, full, read-only, another password
        raise StoreDownError(f"Redis: {error or type(error).__name__}") from error


def _client(config: Any, timeout_s: float) -> Any:
    try:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio import Redis as Client
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Disconnected
    except ImportError:
        raise UserError("store.kind: redis needs the package: pip install 'raysys[redis]'") from None
    url = config.place()
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout_s,
            socket_connect_timeout=config.connect_timeout_s,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),  # connections older than the server
        )
    except ValueError:
        raise UserError("store.url: not a URL of a Redis server; write redis://HOST:PORT/DB") from None
    return Client.from_pool(pool)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
