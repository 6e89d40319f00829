"""Generated logs with planted structure, so that the best possible answer is known: for tests, scale and demos.

Every user has a taste (a block of items). The next item is the planted successor of the last one with probability
`order`; otherwise a popular item of the taste. So `order` bounds hit rate at 1 from above, and ratings say how well
an item fits the taste. The retail tables are one funnel: what is clicked was shown, what is bought was in the cart.
In `feedback` half of what is shown is of any taste, and what came of it depends on whether it fits.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from raysys.data.formats.source import MALFORMED, EventFormat, Piece, RawEvents, SourceConfig
from raysys.data.schema import LABEL_PREFIX, NUMBER_PREFIX, REQUEST_ID, Fields
from raysys.data.times import TimeUnit

_USERS_PER_PIECE = 20_000
_START = 1_700_000_000_000  # ms
_DAY = 86_400_000
Table = Literal["interaction", "feedback", "impression", "click", "cart", "purchase"]
_FEEDBACK = ("click", "purchase", "watch_time")
_KEEP = {"interaction": 1.0, "feedback": 1.0, "impression": 1.0, "click": 1.0, "cart": 0.3, "purchase": 0.15}


class Synthetic(EventFormat):
    """Users with tastes walking along planted successions of items."""

    class Config(SourceConfig):
        """A generated log; the same settings give the same log, in pieces of 20,000 users."""

        format: Literal["synthetic"] = "synthetic"
        path: str = ""
        num_users: int = Field(1000, ge=1)
        num_items: int = Field(200, ge=4)
        num_tastes: int = Field(8, ge=1)
        events_per_user: int = Field(20, ge=3)
        """Mean of a geometric length, at least 3."""
        order: float = Field(0.8, ge=0, le=1)
        """Probability that the planted successor comes next; 0 plants no order at all."""
        days: int = Field(30, ge=1)
        table: Table = "interaction"
        """Which table of the funnel; `interaction` is a plain log with ratings, `feedback` one of what was shown, with
        rating, click, purchase, watch time and the duration of the item."""
        seed: int = 0

        @model_validator(mode="after")
        def _an_item_for_every_taste(self) -> "Synthetic.Config":
            if self.num_tastes > self.num_items:
                raise ValueError(f"num_tastes ({self.num_tastes}) must be at most num_items ({self.num_items})")
            return self

    config: Config

    @property
    def fields(self) -> Fields:
        """Interactions carry a rating, feedback more, the tables of the funnel the request that showed the item."""
        if self.config.table == "feedback":
            return Fields(labels=("rating", *_FEEDBACK), numbers=("duration",))
        return Fields(labels=("rating",)) if self.config.table == "interaction" else Fields(request_id=True)

    @property
    def time_unit(self) -> TimeUnit:
        """Milliseconds."""
        return "ms"

    def pieces(self) -> list[Piece]:
        """One piece per 20,000 users."""
        count = -(-self.config.num_users // _USERS_PER_PIECE)
        return [Piece(f"synthetic:{self.config.seed}", index, index) for index in range(count)]

    def estimate_rows(self) -> int | None:
        """Return the expected rows: the mean length of a walk times users, thinned as the table is."""
        shown = 2.0 if self.config.table == "impression" else _KEEP[self.config.table]
        return round(self.config.num_users * self.config.events_per_user * shown)

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Generate the users of a piece."""
        config = self.config
        generator = np.random.default_rng([config.seed, piece.group])
        first = piece.group * _USERS_PER_PIECE
        num_users = min(_USERS_PER_PIECE, config.num_users - first)
        lengths = 3 + generator.geometric(1 / max(config.events_per_user - 2, 1), num_users) - 1
        users = np.repeat(np.arange(num_users), lengths)
        tastes = generator.integers(config.num_tastes, size=num_users)
        items = self._walk(generator, lengths, tastes)
        offsets = np.repeat(np.cumsum(lengths) - lengths, lengths)
        share = (np.arange(len(users)) - offsets + generator.random(len(users))) / np.repeat(lengths, lengths)
        times = _START + (share * config.days * _DAY).astype(np.int64)
        stars = self._stars(generator, items, tastes[users])
        keep = generator.random(len(users)) < _KEEP[config.table]
        requests = np.arange(len(users))
        if config.table == "feedback":
            anything = generator.integers(config.num_items, size=len(items))
            items = np.where(generator.random(len(items)) < 0.5, anything, items)
            stars = self._stars(generator, items, tastes[users])
        if config.table == "impression":  # beside each item that is clicked, one that is passed over
            others = generator.integers(config.num_items, size=len(items))
            others = (others + (others == items)) % config.num_items
            items = np.column_stack([items, others]).reshape(-1)
            users, times, requests = np.repeat(users, 2), np.repeat(times, 2), np.repeat(requests, 2)
            stars, keep = np.repeat(stars, 2), np.repeat(keep, 2)
        if config.table == "purchase":  # bought from the cart, some minutes later
            keep &= np.random.default_rng([config.seed, piece.group, 1]).random(len(users)) < _KEEP["cart"]
            times = times + 600_000
        rows = np.flatnonzero(keep)
        columns = {
            "user_id": _named("u", users[rows] + first),
            "item_id": _named("i", items[rows]),
            "event": pa.repeat(pa.scalar(self._event()), len(rows)),
            "timestamp": pa.array(times[rows]),
        }
        if config.table in ("interaction", "feedback"):
            columns[LABEL_PREFIX + "rating"] = pa.array(np.clip(stars[rows], 1, 5).astype(np.float32))
        if config.table == "feedback":
            columns |= self._feedback(generator, items, tastes[users])
        elif config.table != "interaction":  # every table of the funnel draws the same walks
            columns[REQUEST_ID] = _named(f"r{piece.group}-", requests[rows])
        yield RawEvents(pa.table({**columns, "row": pa.array(rows + 1)}), MALFORMED.empty_table())

    def _stars(self, generator: np.random.Generator, items: np.ndarray, tastes: np.ndarray) -> np.ndarray:
        return np.where(self.taste_of(items) == tastes, 4.5, 2.5) + generator.normal(0, 0.5, len(items))

    def _feedback(self, generator: np.random.Generator, items: np.ndarray, tastes: np.ndarray) -> dict[str, pa.Array]:
        """Return what came of showing items: who likes them clicks more often, buys more often and watches longer."""
        fits, chance = self.taste_of(items) == tastes, generator.random((2, len(items)))
        click = chance[0] < np.where(fits, 0.8, 0.2)
        purchase = click & (chance[1] < np.where(fits, 0.4, 0.1))
        duration = 10.0 + items * 7 % 50
        watched = np.minimum(generator.exponential(np.where(fits, 40.0, 8.0)), duration)
        values = dict(zip(_FEEDBACK, (click, purchase, watched), strict=True))
        labels = {LABEL_PREFIX + name: pa.array(found.astype(np.float32)) for name, found in values.items()}
        return labels | {NUMBER_PREFIX + "duration": pa.array(duration.astype(np.float32))}

    def items(self) -> pa.Table | None:
        """Titles that tell the taste, so that recommendations can be read."""
        ids = np.arange(self.config.num_items)
        titles = [f"Item {i} of taste {taste}" for i, taste in zip(ids, self.taste_of(ids), strict=True)]
        return pa.table({"item_id": [f"i{i}" for i in ids], "title": titles})

    def successor(self, items: np.ndarray) -> np.ndarray:
        """Return the planted next item: the known best answer."""
        size = self._block()
        base = np.minimum(items // size, self.config.num_tastes - 1) * size
        return np.minimum(base + (items - base + 1) % size, self.config.num_items - 1)

    def taste_of(self, items: np.ndarray) -> np.ndarray:
        """Return the taste whose block an item lies in."""
        return np.minimum(items // self._block(), self.config.num_tastes - 1)

    def _block(self) -> int:
        return max(self.config.num_items // self.config.num_tastes, 1)

    def _walk(self, generator: np.random.Generator, lengths: np.ndarray, tastes: np.ndarray) -> np.ndarray:
        size, longest = self._block(), int(lengths.max())
        walks = np.zeros((len(lengths), longest), dtype=np.int64)
        for step in range(longest):  # vectorised over users
            popular = tastes * size + np.minimum(generator.geometric(min(4 / size, 1), len(lengths)) - 1, size - 1)
            planted = generator.random(len(lengths)) < self.config.order
            walks[:, step] = np.where(planted & (step > 0), self.successor(walks[:, step - 1]), popular)
        return walks[np.arange(longest) < lengths[:, None]]

    def _event(self) -> str:
        named = "event" in self.config.model_fields_set or self.config.table == "interaction"
        return self.config.event if named else self.config.table


def _named(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers), pa.string()), "")
