"""Pin: items that have their place in every list."""

from typing import Literal

import numpy as np
from pydantic import Field

from raysys.component import FrozenConfig
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from serving.rules.rule import Rule, RuleFacts, Walk


class Pin(Rule):
    """Puts items into the slots from a given one on, as far as filters, stock and what was seen let them."""

    class Config(FrozenConfig):
        """Which items, and where."""

        kind: Literal["pin"] = "pin"
        items: tuple[str, ...] = Field(min_length=1)
        """Item ids, in the order of their slots."""
        slot: int = Field(1, ge=1)
        """Slot of the first of them that may be shown, counted from 1; the others follow."""

    def __init__(self, config: Config, facts: RuleFacts, where: str) -> None:
        super().__init__(config, facts, where)
        self._items = facts.vocabulary.lookup(config.items).astype(np.int64)
        unknown = [name for name, index in zip(config.items, self._items, strict=True) if index < FIRST_ITEM]
        if unknown:
            raise UserError(f"{where}.items: the run knows no item {', '.join(map(repr, unknown))}; leave them out")

    def wanted(self) -> np.ndarray:
        """Return the pinned items."""
        return self._items

    def walk(self, items_K: np.ndarray, k: int) -> Walk | None:
        """Hold them back until their slot comes; a list that ends before it is filled as if there were no rule."""
        place_of = {item: place for place, item in enumerate(items_K.tolist())}
        there = [place_of[item] for item in self._items.tolist() if item in place_of]
        return _Holding(there, self.config.slot, len(items_K)) if there and self.config.slot <= k else None


class _Holding(Walk):
    def __init__(self, places: list[int], slot: int, count: int) -> None:
        self._places, self._slot = list(places), slot
        self._closed_K = np.zeros(count, bool)
        self._closed_K[places] = True

    def closed(self) -> np.ndarray:
        return self._closed_K

    def forced(self, slot: int) -> int | None:
        return self._places[0] if self._places and slot >= self._slot else None

    def took(self, place: int) -> None:
        if place in self._places:
            self._places.remove(place)
