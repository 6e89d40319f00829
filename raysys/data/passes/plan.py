"""What every task of an ingestion needs to know, and where it finds and leaves its files."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.data.config import IngestConfig
from raysys.data.files import ArrowParts, write_bytes
from raysys.data.formats import FORMATS
from raysys.data.formats.source import EventFormat, Piece
from raysys.data.schema import Fields
from raysys.data.splitting import SPLITS, Splitting
from raysys.errors import UserError

_BATCH_ROWS = 4000
_MOST_BATCH_BITS = 10
NUM_BUCKETS = 1 << 16
"""Hash ranges that routed rows are sorted by; lanes are runs of them, cut when all rows are counted."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known before a row is read; travels to the workers."""

    config: IngestConfig
    version: Path
    pieces: tuple[tuple[int, Piece], ...]  # (index of the source, piece)
    user_pieces: tuple[Piece, ...]  # of the table of users
    units: tuple[str | None, ...]  # of the times of each source; None: it has none
    fields: Fields  # what the events of the log carry; label joins and tables add to it
    now_ms: int
    base: Path | None = None  # the version that is extended
    secret: bytes | None = dataclasses.field(default=None, repr=False)

    @property
    def staging(self) -> Path:
        """Directory of intermediate files, removed at the end."""
        return self.version / "staging"

    def tell(self, task: str, error: UserError) -> None:
        """Keep a mistake of the user's that a task found: Ray would bury its text in tracebacks."""
        write_bytes(str(error).encode(), self.staging / "errors" / f"{task}.txt")

    def told(self) -> str | None:
        """Return the first mistake that a task found; the tasks after it have nothing to do."""
        found = sorted((self.staging / "errors").glob("[!.]*.txt"))
        return found[0].read_text() if found else None


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known when every row has been read once."""

    event_names: tuple[str, ...]  # ascending
    bounds: tuple[int, ...]  # [L + 1] lane i holds the users of hash buckets bounds[i] to bounds[i + 1]
    log_end_ms: int  # the newest event: label windows that end later are open
    split: Any  # config of the split, its dates resolved
    has_time: bool
    fields: Fields  # what the events of a shard carry

    @property
    def splitting(self) -> Splitting:
        """The resolved split."""
        return SPLITS[self.split.kind](self.split)


class LaneTask(ABC):
    """A task that works on one lane at a time. A mistake of the user's is told, not raised, and ends the work."""

    def __init__(self, plan: Plan, survey: Survey) -> None:
        self.plan = plan
        self.survey = survey

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Work on each lane in the batch; returns their numbers."""
        for number in batch["lane"].to_pylist():
            if self.plan.told() is None:
                try:
                    self.run(number)
                except UserError as error:
                    self.plan.tell(f"{type(self).__name__}-{number:05d}", error)
        return batch

    @abstractmethod
    def run(self, number: int) -> None:
        """Work on one lane."""


def format_of(source: Any) -> EventFormat:
    """Return the format that a source config belongs to."""
    return FORMATS[source.format](source)


def lane_bounds(counts: np.ndarray, events_per_lane: int) -> tuple[int, ...]:
    """Cut the hash buckets into runs of about equally many events: a function of the counts [NUM_BUCKETS] alone."""
    total = int(counts.sum())
    num_lanes = max(1, -(-total // events_per_lane))
    running = np.cumsum(counts)
    cuts = 1 + np.searchsorted(running, np.arange(1, num_lanes) * (total / num_lanes))
    inner = np.unique(np.minimum(cuts, NUM_BUCKETS - 1)).tolist() if total else []
    return (0, *(cut for cut in inner if cut > 0), NUM_BUCKETS)


def buckets_of(hashes: np.ndarray) -> np.ndarray:
    """Return the hash bucket [E] u16 of each user's hash."""
    return (hashes >> np.uint64(48)).astype(np.uint16)


def spill(table: pa.Table, buckets: np.ndarray, path: Path) -> None:
    """Write a table sorted by hash bucket (stable) in many small record batches, and where each bucket begins."""
    order = np.argsort(buckets, kind="stable")
    begins = np.zeros(NUM_BUCKETS + 1, np.int32)
    begins[1:] = np.cumsum(np.bincount(buckets, minlength=NUM_BUCKETS))
    ordered = table.take(pa.array(order)).combine_chunks()
    bits = min(_MOST_BATCH_BITS, max(table.num_rows // _BATCH_ROWS, 1).bit_length() - 1)
    cuts = begins[:: NUM_BUCKETS >> bits]
    parts = ArrowParts(path, table.schema)
    for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        parts.add(ordered.slice(first, last - first))
    parts.close()
    write_bytes(begins.tobytes(), begins_path(path))


def read_spilled(path: Path, low: int, high: int) -> pa.Table:
    """Read the rows of the hash buckets from `low` to before `high`.

    The file is read, not mapped: a mapped page of it may bring megabytes around it into the memory of the task.
    """
    begins = read_begins(path)
    with pa.OSFile(str(path), "rb") as source:
        reader = pa.ipc.open_file(source)
        width = NUM_BUCKETS // reader.num_record_batches
        numbers = range(low // width, -(-high // width)) if begins[high] > begins[low] else range(0)
        table = pa.Table.from_batches([reader.get_batch(number) for number in numbers], reader.schema)
        start = int(begins[low] - begins[low // width * width])
        return table.slice(start, int(begins[high] - begins[low]))


def begins_path(path: Path) -> Path:
    """Return the file that says where each bucket of a spilled table begins: i32 [NUM_BUCKETS + 1]."""
    return path.with_suffix(".begins")


def read_begins(path: Path) -> np.ndarray:
    """Map the bucket offsets of a spilled table."""
    return np.memmap(begins_path(path), np.int32, mode="r")


def spilled(folder: Path) -> list[Path]:
    """Return the spilled tables of a folder in the order of their pieces and blocks."""
    return sorted(folder.glob("[0-9]*.arrow"))  # a task that was killed may leave a hidden partial file


def write_summary(value: Mapping[str, Any], path: Path) -> None:
    """Write what a task tells the driver."""
    write_bytes(json.dumps(value).encode(), path)


def read_summaries(folder: Path) -> list[dict[str, Any]]:
    """Return what the tasks told, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*.json"))]
