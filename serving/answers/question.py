"""What travels between HTTP and the model: a question with everything that is known of who asks, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from serving.answers.filters import Conditions
from serving.users.state import NOBODY, UserState

Source = Literal["user", "session", "history", "popularity"]
Rules = Literal["all", "allowed", "none"]
"""All, with exploration; those that say which items may be shown at all; none."""
COSINE = "cosine"
"""Asks by the direction of item vectors, in the place of a task."""


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks, and for what."""

    state: UserState = NOBODY
    source: Source = "history"
    """What the state was made from."""
    k: int = 10
    exclude_seen: bool = True
    candidates: tuple[str, ...] | None = None
    """Only these are ranked; None for the whole catalogue."""
    filters: Conditions = ()
    context: Mapping[str, float | str] = field(default_factory=dict)
    """What is known of the moment, by column."""
    weights: Mapping[str, float] | None = None
    """Of the tasks in the final score; None takes the config's."""
    diversity: float = 0.0
    scores: bool = True
    """Whether the answer shows what the tasks predict."""
    explain: bool = False
    task: str | None = None
    """The retrieving task that asks, or COSINE; None for the run's first."""
    seed: str = ""
    """Decides what is drawn where the config explores: the request's id."""
    time: int = 0
    """Now, in ms since 1970: what rules of recency count from."""
    days: int | None = None
    """Of popularity: the last days that count; None for the training period."""
    rules: Rules = "all"
    """Which business rules apply."""


@dataclass(frozen=True, slots=True)
class Reason:
    """An item of the history that moved an item's score."""

    item_id: str
    effect: float
    """The score, less what it would be without this event."""


@dataclass(frozen=True, slots=True)
class Item:
    """One recommended item."""

    item_id: str
    title: str | None
    score: float
    slot: int = 1
    """Its place in the list, from 1."""
    propensity: float = 1.0
    """The probability that it stands in its slot, given those before it."""
    scores: Mapping[str, float] = field(default_factory=dict)
    retrieved: float = 0.0
    """Its score by the task that retrieves."""
    why: tuple[Reason, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The items, best first, and what they come from."""

    items: list[Item]
    source: Source
    unknown: tuple[str, ...] = ()
    """Those of the question's candidates that the run does not know."""
