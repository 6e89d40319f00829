"""The tasks of an ingestion. Each writes files named after its input, whole or not at all, and may be repeated.

Pure: Ray Data calls these objects with Arrow tables, and so can a test.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.config import IngestConfig
from raysys.data.files import read_arrow, write_arrow, write_bytes
from raysys.data.formats import FORMATS
from raysys.data.formats.source import EventFormat, Piece
from raysys.data.schema import LABEL_PREFIX, ROWS, Split, events_schema, sequences_schema
from raysys.data.sequences import UserEvents, count_marks, encode_users, gather_users, lane_of, train_items
from raysys.data.splitting import SPLITS, Splitting
from raysys.data.validation import ValidationReport, validate
from raysys.data.vocabulary import Vocabulary
from raysys.errors import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every task of an ingestion needs to know; travels to the workers."""

    config: IngestConfig
    pieces: tuple[tuple[int, Piece], ...]  # (index of the source, piece)
    labels: tuple[str, ...]
    num_lanes: int
    version: Path
    now_ms: int

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

    @property
    def splitting(self) -> Splitting:
        """The configured split."""
        config: Any = self.config.split
        return SPLITS[config.kind](config)


def format_of(source: Any) -> EventFormat:
    """Return the format that a source config belongs to."""
    return FORMATS[source.format](source)


class ReadPieces:
    """Task: pieces -> EVENTS with their lane; rejected rows and counts go to files named after the piece."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield the good rows of each piece in the batch."""
        schema = events_schema(self.plan.labels).append(pa.field("lane", pa.int32()))
        for index in batch["piece"].to_pylist():
            yield schema.empty_table()  # a piece without a good row still has a schema
            if self.plan.told() is not None:
                continue
            try:
                for table in self._read(index):
                    yield table.select(schema.names).cast(schema)
            except UserError as error:
                self.plan.tell(f"piece-{index:06d}", error)

    def _read(self, index: int) -> Iterator[pa.Table]:
        plan = self.plan
        which, piece = plan.pieces[index]
        report, rejected, position = ValidationReport(), [], index << 40
        for raw in format_of(plan.config.sources[which]).read(piece):
            kept, bad = validate(raw.table, raw.malformed, piece.path, plan.now_ms)
            report.rows += raw.table.num_rows + raw.malformed.num_rows
            report.kept += kept.num_rows
            rejected += [bad] if bad.num_rows else []
            positions = np.arange(position, position + kept.num_rows, dtype=np.int64)
            position += kept.num_rows
            yield self._complete(kept, positions)
        if rejected:
            table = pa.concat_tables(rejected)
            counts = table["rule"].value_counts().to_pylist()
            report.rejected = {count["values"]: count["counts"] for count in counts}
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            write_bytes(sink.getvalue(), plan.version / "rejected" / f"{index:06d}.parquet")
        write_bytes(json.dumps(dataclasses.asdict(report)).encode(), plan.staging / "reports" / f"{index:06d}.json")

    def _complete(self, kept: pa.Table, positions: np.ndarray) -> pa.Table:
        for label in self.plan.labels:
            if LABEL_PREFIX + label not in kept.column_names:
                kept = kept.append_column(LABEL_PREFIX + label, pa.nulls(kept.num_rows, pa.float32()))
        lanes = lane_of(kept["user_id"], self.plan.num_lanes) if kept.num_rows else np.zeros(0, np.int32)
        return kept.append_column("position", pa.array(positions)).append_column("lane", pa.array(lanes))


class GatherLanes:
    """Task: events of whole lanes -> staging files, one of sorted events and one of train items per lane."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write every lane of the block and return how many there were."""
        lanes = pc.unique(block["lane"]).to_pylist() if block.num_rows and self.plan.told() is None else []
        for lane in lanes:
            try:
                self._gather(lane, block.filter(pc.equal(block["lane"], lane)).drop_columns(["lane"]))
            except UserError as error:
                self.plan.tell(f"lane-{lane:05d}", error)
        return pa.table({"lanes": pa.array([len(lanes)], pa.int64())})

    def _gather(self, lane: int, events: pa.Table) -> None:
        users = gather_users(events, self.plan.config.history, self.plan.splitting)
        write_arrow(users.table, self.plan.staging / "events" / f"{lane:05d}.arrow")
        write_arrow(train_items(users), self.plan.staging / "items" / f"{lane:05d}.arrow")


class EncodeLanes:
    """Task: staging file of a lane -> its shard, its row counts, and a summary for the manifest."""

    def __init__(self, plan: Plan, event_names: tuple[str, ...]) -> None:
        self.plan = plan
        self.event_names = event_names

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encode the lanes of the batch and return a JSON summary of each."""
        texts = [json.dumps(self._encode(lane)) for lane in batch["lane"].to_pylist()]
        return pa.table({"summary": texts})

    def _encode(self, lane: int) -> dict[str, Any]:
        plan = self.plan
        table = read_arrow(plan.staging / "events" / f"{lane:05d}.arrow")
        users = gather_users(table, plan.config.history, plan.splitting)
        items = Vocabulary.load(plan.version / "vocabulary.arrow").encode(users.table["item_id"])
        rows = encode_users(users, items, self.event_names, sequences_schema(plan.labels))
        name = f"{lane:05d}.arrow"
        digest = write_arrow(rows, plan.version / "shards" / name)
        write_arrow(pa.table(count_marks(users), schema=ROWS), plan.staging / "rows" / name)
        return {"lane": lane, "shard": name, "digest": digest, "users": len(users.users), **_statistics(users, plan)}


def _statistics(users: UserEvents, plan: Plan) -> dict[str, Any]:
    train = pa.array(users.marks == Split.TRAIN)
    labels = {}
    for name in plan.labels:
        known = pc.drop_null(users.table[LABEL_PREFIX + name].filter(train))
        labels[name] = (pc.sum(known).as_py() or 0.0, len(known))
    times = pc.min_max(users.table["timestamp"]).as_py()
    marks = {mark.name.lower(): int(np.sum(users.marks == mark)) for mark in (Split.TRAIN, Split.VALID, Split.TEST)}
    return {"events": users.table.num_rows, "marks": marks, "labels": labels, "times": (times["min"], times["max"])}
