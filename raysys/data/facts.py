"""What is known of a dataset, as plain values: the carriers that `raysys data show` and its page are made of."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One kind of event, as a stage of the funnel."""

    event: str
    events: int
    by_split: dict[str, int]
    users: int
    pairs: int
    """Distinct pairs of user and item; items outside the vocabulary are left out."""
    share_of_previous: float | None
    """Share of the pairs of the stage before that have an event of this kind too, whenever; null for the first."""


@dataclass(frozen=True)
class Lengths:
    """History events per user in training."""

    mean: float
    percentiles: dict[str, float]
    edges: list[int]
    """Bin i of `users` holds the lengths from edges[i] to below edges[i + 1]."""
    users: list[int]


@dataclass(frozen=True)
class Popularity:
    """History events per item in training."""

    share_of_top: dict[str, float]
    """Share of the events that the most popular 0.1, 1 and 10 % of the items take (at least one item)."""
    gini: float
    """0: all items equal, 1: one item takes everything."""
    once: int
    never: int
    """Items that training knows from other events than history alone."""
    curve: list[tuple[int, int]]
    """(rank from 1, events) at ranks that grow geometrically."""


@dataclass(frozen=True)
class Times:
    """When things happened, UTC."""

    first: str
    last: str
    days: list[str]
    """First day of every bin."""
    days_per_bin: int
    events: dict[str, list[int]]
    """Events of each kind per bin."""
    hours_of_week: list[int]
    """Events in each of the 168 hours of a week, from Monday 00:00."""
    boundaries: dict[str, str]
    """From when events validate and test, where the split is a date for all users."""


@dataclass(frozen=True)
class Numbers:
    """A label or a number of the context."""

    known: int
    known_share: float
    known_share_by_event: dict[str, float]
    """Of the kinds of events that carry it."""
    mean: float | None
    training_mean: float | None
    """Of labels alone."""
    deviation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Categories:
    """A category of the context."""

    values: int
    known_share: float
    """Share of the events with a value that training knows."""
    top: dict[str, int]
    """Events of the most frequent values."""


@dataclass(frozen=True)
class Feature:
    """A column that describes items or users."""

    kind: str
    covered: float
    """Share of the items or users for which it is known."""
    values: int | None = None
    """Distinct values of a category, length of a vector."""


@dataclass(frozen=True)
class VersionFacts:
    """One version of a dataset, in a line."""

    version: str
    written: str
    """When its manifest was written, UTC."""
    users: int
    items: int
    events: int
    parent: str | None
    fingerprint: str
    files: int


@dataclass(frozen=True)
class Profile:
    """Everything `raysys data show` tells."""

    path: str
    project: str
    version: VersionFacts
    users: int
    items: int
    events: int
    density: float
    """Share of all pairs of user and item that have an event."""
    outside: int
    """Events whose item no training event names."""
    forgotten: int
    history: list[str]
    rows: dict[str, Any]
    """read, kept, rejected {rule: rows}, cleaned {reason: rows}; read is the sum of the rest."""
    funnel: list[Stage]
    lengths: Lengths
    popularity: Popularity
    times: Times | None
    labels: dict[str, Numbers]
    numbers: dict[str, Numbers]
    categories: dict[str, Categories]
    item_features: dict[str, Feature]
    user_features: dict[str, Feature]
    rejected_examples: dict[str, list[dict[str, Any]]]
    files: list[dict[str, Any]]
    """path, size and modified of every file that was read."""
    versions: list[VersionFacts]
