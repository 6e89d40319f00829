"""Where live state is kept. To add a kind: a class with the methods of Store in a file here, and a line in STORES."""

from raysys.component import FrozenConfig, kind_of
from serving.stores.breaker import Breaker
from serving.stores.embedded import Embedded
from serving.stores.redis import Redis
from serving.stores.store import (
    Loaded,
    LoadedUser,
    NewEvent,
    Store,
    StoreClosedError,
    StoreConfig,
    StoreDownError,
    session_key,
)

STORES: dict[str, type[Store]] = {"embedded": Embedded, "redis": Redis}
"""Kind -> class."""


def make_store(config: FrozenConfig) -> Store:
    """Return the store that a config describes, not yet open, behind a circuit breaker."""
    return Breaker(STORES[kind_of(config)](config))


__all__ = [
    "STORES",
    "Loaded",
    "LoadedUser",
    "NewEvent",
    "Store",
    "StoreClosedError",
    "StoreConfig",
    "StoreDownError",
    "make_store",
    "session_key",
]
