"""Where live state is kept. To add a kind: a class with the methods of Store in a file here, and a line in STORES."""

from raysys.component import FrozenConfig, kind_of
from serving.stores.embedded import Embedded
from serving.stores.store import LoadedUser, NewEvent, Store, StoreDownError

STORES: dict[str, type[Store]] = {"embedded": Embedded}
"""Kind -> class."""


def make_store(config: FrozenConfig) -> Store:
    """Return the store that a config describes, not yet open."""
    return STORES[kind_of(config)](config)


__all__ = ["STORES", "LoadedUser", "NewEvent", "Store", "StoreDownError", "make_store"]
