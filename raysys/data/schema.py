"""The Arrow schemas that travel between data stations, and the marks of a split.

A label `x` is the float column `label.x` (null = unknown), so a schema depends on the labels a log has.
"""

from enum import IntEnum
from typing import Final

import pyarrow as pa

PAD: Final = 0
"""Index of the item that fills the end of short histories."""
UNKNOWN: Final = 1
"""Index of any item that no training event names."""
FIRST_ITEM: Final = 2
"""Index of the first real item of a vocabulary."""

MAX_EVENT_NAMES: Final = 127
"""Kinds of events that a dataset can tell apart: an index of them is one byte."""

LABEL_PREFIX: Final = "label."


class Split(IntEnum):
    """Mark of an event. A protocol for one split sees all events with smaller marks as history."""

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
        pa.field("position", pa.int64(), nullable=False),  # order in the source; breaks ties and stands in for time
    ]
)
"""One row per event, as formats produce it and validation keeps it; labels follow as further columns."""


def events_schema(labels: tuple[str, ...]) -> pa.Schema:
    """Return EVENTS with one nullable float column for every label."""
    fields = [pa.field(LABEL_PREFIX + name, pa.float32()) for name in labels]
    return pa.schema([*EVENTS, *fields])


def sequences_schema(labels: tuple[str, ...]) -> pa.Schema:
    """Return the schema of a shard: one row per user, events as parallel lists in time order."""
    lists = [
        pa.field("items", pa.list_(pa.int32()), nullable=False),  # vocabulary index
        pa.field("events", pa.list_(pa.int8()), nullable=False),  # index into the manifest's event names
        pa.field("times", pa.list_(pa.int64()), nullable=False),  # ms; 0 where the log has no time
        pa.field("marks", pa.list_(pa.int8()), nullable=False),  # Split
        *[pa.field(LABEL_PREFIX + name, pa.list_(pa.float32()), nullable=False) for name in labels],
    ]
    return pa.schema([pa.field("user_id", pa.string(), nullable=False), *lists])


ROWS: Final = pa.schema(
    [pa.field(f"{mark}_{what}", pa.int32()) for mark in ("train", "valid", "test") for what in ("events", "tokens")]
)
"""One row per user, in shard order: how many events, and how many history events, carry each mark."""
