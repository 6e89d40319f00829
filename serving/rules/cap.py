"""Cap: at most so many items of one category in a list."""

from collections import Counter
from typing import Literal

import numpy as np
from pydantic import Field

from raysys.component import FrozenConfig
from raysys.errors import UserError, nearest
from serving.rules.rule import Rule, RuleFacts, Walk


class Cap(Rule):
    """Passes over items of a value that the list has enough of; an item without a value is never passed over."""

    class Config(FrozenConfig):
        """The category, and how many."""

        kind: Literal["cap"] = "cap"
        by: str
        """A category of items; each value of one with several counts."""
        most: int = Field(ge=1)
        """Most items of a value in a list."""

    def __init__(self, config: Config, facts: RuleFacts, where: str) -> None:
        super().__init__(config, facts, where)
        there = facts.features.categories
        if config.by not in there:
            raise UserError(
                f"{where}.by: items have no category {config.by!r}{nearest(config.by, there)} "
                f"(they have: {', '.join(there) or 'none'})"
            )

    def walk(self, items_K: np.ndarray, k: int) -> Walk | None:
        """Count values."""
        return _Counting(self.facts.features.values(self.config.by, items_K), self.config.most)


class _Counting(Walk):
    def __init__(self, values: list[tuple[str, ...]], most: int) -> None:
        self._values, self._most = values, most
        self._counts: Counter[str] = Counter()
        self._closed_K = np.zeros(len(values), bool)

    def closed(self) -> np.ndarray:
        return self._closed_K

    def took(self, place: int) -> None:
        self._counts.update(self._values[place])
        full = {value for value in self._values[place] if self._counts[value] >= self._most}
        if full:
            self._closed_K |= np.array([not full.isdisjoint(own) for own in self._values])
