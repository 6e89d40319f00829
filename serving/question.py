"""What travels between HTTP and the model: a question with everything that is known of who asks, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from serving.state import NOBODY, UserState

Source = Literal["user", "session", "history", "popularity"]


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks, and for what."""

    state: UserState = NOBODY
    source: Source = "history"
    """What the state was made from."""
    k: int = 10
    exclude_seen: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """One recommended item."""

    item_id: str
    title: str | None
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The items, best first, and what they come from."""

    items: list[Item]
    source: Source
