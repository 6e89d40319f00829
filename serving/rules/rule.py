"""The contract of a business rule: what it keeps out, what it puts in, and what it says while a list is filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from raysys.component import FrozenConfig
from raysys.data.dataset import Manifest
from serving.answers.features import ItemFeatures
from serving.users.state import UserState

NO_ITEMS = np.zeros(0, np.int64)


class Lookup(Protocol):
    """Finds items by their ids."""

    def lookup(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return indices, UNKNOWN where there is none."""
        ...


@dataclass(frozen=True)
class RuleFacts:
    """What rules may know of a run."""

    manifest: Manifest
    vocabulary: Lookup
    features: ItemFeatures


class Walk:
    """A rule while one list is filled, slot by slot, from candidates that are numbered from 0."""

    def closed(self) -> np.ndarray | None:
        """Return which candidates may not come next, bool [K]; None where all may."""
        return None

    def forced(self, slot: int) -> int | None:
        """Return the candidate that has to stand in a slot, counted from 1."""
        return None

    def took(self, place: int) -> None:
        """Note which candidate was taken."""


class Rule:
    """Registered in RULES; a rule overrides what it is about."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig, facts: RuleFacts, where: str) -> None:
        """Check the config against the run; `where` begins the message of an error.

        Raises:
            UserError: the run has no such column, event or item.
        """
        self.config: Any = config
        self.facts = facts

    def flags(self) -> np.ndarray | None:
        """Return which items may be recommended at all, bool [I]; None where all may. Asked once."""
        return None

    def without(self, state: UserState, time: int) -> np.ndarray:
        """Return the vocabulary indices that a user must not be answered with now."""
        return NO_ITEMS

    def wanted(self) -> np.ndarray:
        """Return the vocabulary indices that have to be among the candidates, if they are allowed."""
        return NO_ITEMS

    def walk(self, items_K: np.ndarray, k: int) -> Walk | None:
        """Return what the rule says while a list of k is filled from candidates; None where it says nothing."""
        return None
