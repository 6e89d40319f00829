"""The Arrow schemas that travel between data stations, and the marks of a split.

What a log says about an event beyond who, what and when are flat columns: a label `x` is the float column `label.x`, a
number of the context `number.x` (both null = unknown), a category of the context the text column `category.x`. So a
schema depends on the fields a log has.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import pyarrow as pa

PAD: Final = 0
"""Index of the item that fills the end of short histories."""
UNKNOWN: Final = 1
"""Index of any item that no training event names."""
FIRST_ITEM: Final = 2
"""Index of the first real item of a vocabulary."""

NEVER: Final = (1 << 63) - 1
"""First time in training of what training never met."""

MAX_EVENT_NAMES: Final = 127
"""Kinds of events that a dataset can tell apart: an index of them is one byte."""

LABEL_PREFIX: Final = "label."
NUMBER_PREFIX: Final = "number."
CATEGORY_PREFIX: Final = "category."
REQUEST_ID: Final = "request_id"
"""Column that ties an outcome to the impression it came from; kept in the log of a dataset, not in its shards."""


class Split(IntEnum):
    """Mark of an event. A protocol for one split sees all events with smaller marks as history."""

    GIVEN = -1
    """History only: never trained on, never asked for (the past of users that a split holds out)."""
    TRAIN = 0
    VALID = 1
    TEST = 2
    NONE = 3
    """The marks of no event: the period after everything known, which serving asks about."""


EVENTS: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64()),  # ms since 1970-01-01 UTC; null where the log has no time
        pa.field("position", pa.int64(), nullable=False),  # piece << 40 | row or byte offset in the piece's file
    ]
)
"""One row per event, as validation keeps it; labels, context and request_id follow as further columns. The order of the
rows is that of the sources: it breaks ties of time and stands in where there is no time."""


@dataclass(frozen=True)
class Fields:
    """What the events of a log carry beyond EVENTS: names without prefix, each tuple without repetition."""

    labels: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    request_id: bool = False

    @staticmethod
    def union(many: Iterable["Fields"]) -> "Fields":
        """Return every field that one of many logs has, in the order of their first appearance."""
        found = list(many)
        return Fields(
            labels=tuple(dict.fromkeys(name for fields in found for name in fields.labels)),
            numbers=tuple(dict.fromkeys(name for fields in found for name in fields.numbers)),
            categories=tuple(dict.fromkeys(name for fields in found for name in fields.categories)),
            request_id=any(fields.request_id for fields in found),
        )

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """The columns that follow EVENTS, with their types."""
        floats = [LABEL_PREFIX + name for name in self.labels] + [NUMBER_PREFIX + name for name in self.numbers]
        texts = [CATEGORY_PREFIX + name for name in self.categories] + ([REQUEST_ID] if self.request_id else [])
        return dict.fromkeys(floats, pa.float32()) | dict.fromkeys(texts, pa.string())


def events_schema(fields: Fields) -> pa.Schema:
    """Return EVENTS with one nullable column for every further field."""
    return pa.schema([*EVENTS, *(pa.field(name, kind) for name, kind in fields.columns.items())])


def sequences_schema(fields: Fields) -> pa.Schema:
    """Return the schema of a shard: one row per user, events as parallel lists in time order."""
    floats = [LABEL_PREFIX + name for name in fields.labels] + [NUMBER_PREFIX + name for name in fields.numbers]
    lists = [
        pa.field("items", pa.list_(pa.int32()), nullable=False),  # vocabulary index
        pa.field("events", pa.list_(pa.int8()), nullable=False),  # index into the manifest's event names
        pa.field("times", pa.list_(pa.int64()), nullable=False),  # ms; 0 where the log has no time
        pa.field("marks", pa.list_(pa.int8()), nullable=False),  # Split
        *[pa.field(name, pa.list_(pa.float32()), nullable=False) for name in floats],
        *[pa.field(CATEGORY_PREFIX + name, pa.list_(pa.int32()), nullable=False) for name in fields.categories],
    ]
    return pa.schema([pa.field("user_id", pa.string(), nullable=False), *lists])


ROWS: Final = pa.schema(
    [pa.field(f"{mark}_{what}", pa.int32()) for mark in ("train", "valid", "test") for what in ("events", "tokens")]
)
"""One row per user, in shard order: how many events, and how many history events, carry each mark."""
