"""First pass: read and validate the pieces of the sources, and route their rows to hash buckets of users."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.features import concat_blocks
from raysys.data.files import write_arrow, write_bytes
from raysys.data.formats.source import Columns, EventColumn, Piece, RawEvents, SourceConfig
from raysys.data.hashing import hash_ids, share_of
from raysys.data.passes.plan import Plan, buckets_of, format_of, spill, write_summary
from raysys.data.privacy import pseudonyms
from raysys.data.schema import MAX_EVENT_NAMES
from raysys.data.sequences import with_event_names
from raysys.data.tables import read_table, table_pieces
from raysys.data.validation import RowRules, RulesConfig, ValidationReport, validate
from raysys.data.values import as_text
from raysys.errors import UserError

_BLOCK_ROWS = 1_000_000
_HOUR = 3_600_000
_PIECE_BITS = 40
_NO_END = np.iinfo(np.int64).max
_SAMPLE_SEED = 1  # another hash than the lanes': a sample spreads over all lanes


class RoutePieces:
    """Task: pieces of the sources -> spilled events by hash bucket, rejected rows, and counts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Route each piece in the batch; returns its indices."""
        for index in batch["piece"].to_pylist():
            if self.plan.told() is None:
                try:
                    self._route(index)
                except UserError as error:
                    self.plan.tell(f"piece-{index:06d}", error)
        return batch

    def _route(self, index: int) -> None:
        plan = self.plan
        which, piece = plan.pieces[index]
        source = plan.config.sources[which]
        report, rejected, counts, blocks = ValidationReport(), [], _Counts(), 0
        waiting: list[pa.Table] = []
        for raw in format_of(source).read(piece):
            kept, bad = self._validate(raw, which, piece)
            report.rows += raw.table.num_rows + raw.malformed.num_rows + raw.empty
            rejected += [bad] if bad.num_rows else []
            sampled = self._sample(kept)
            _count(report.cleaned, "empty_list", raw.empty)
            _count(report.cleaned, "not_sampled", kept.num_rows - sampled.num_rows)
            report.kept += sampled.num_rows
            counts.add(sampled)
            waiting.append(self._complete(sampled, index))
            if sum(table.num_rows for table in waiting) >= _BLOCK_ROWS:
                self._spill(waiting, index, blocks)
                waiting, blocks = [], blocks + 1
        if any(table.num_rows for table in waiting):
            self._spill(waiting, index, blocks)
        if rejected:
            report.rejected = self._keep_rejected(pa.concat_tables(rejected), index)
        summary = dataclasses.asdict(report) | counts.as_dict()
        write_summary(summary, plan.staging / "reports" / f"{index:06d}.json")

    def _validate(self, raw: RawEvents, which: int, piece: Piece) -> tuple[pa.Table, pa.Table]:
        plan, config = self.plan, self.plan.config
        rules = _rules(config.sources[which], config.rules, plan.units[which], plan.now_ms)
        table = raw.table
        if plan.secret is not None:  # before anything else: a rejected row must not name its user either
            names = pseudonyms(as_text(table["user_id"]), plan.secret)
            table = table.set_column(table.column_names.index("user_id"), "user_id", names)
        keep_text = plan.secret is None and not config.drop
        return validate(table, raw.malformed, piece.path, rules, piece.by_offset, keep_text)

    def _sample(self, kept: pa.Table) -> pa.Table:
        share = self.plan.config.sample_users
        if share == 1:
            return kept
        return kept.filter(pa.array(share_of(hash_ids(kept["user_id"], _SAMPLE_SEED)) < share))

    def _complete(self, kept: pa.Table, index: int) -> pa.Table:
        """Give the rows every column of the log, and their place in the sources."""
        rows = kept["row"].to_numpy()
        columns = {name: kept[name] for name in ("user_id", "item_id", "event", "timestamp")}
        columns["position"] = pa.array((index << _PIECE_BITS) + rows)
        for name, kind in self.plan.fields.columns.items():
            columns[name] = kept[name] if name in kept.column_names else pa.nulls(kept.num_rows, kind)
        return pa.table(columns)

    def _spill(self, tables: list[pa.Table], index: int, block: int) -> None:
        table = pa.concat_tables(tables).combine_chunks()
        events = table["event"].combine_chunks().dictionary_encode()
        if len(events.dictionary) > MAX_EVENT_NAMES:
            raise UserError(too_many_events(events.dictionary.to_pylist()))
        codes = pc.cast(events.indices, pa.int8())
        table = table.set_column(table.column_names.index("event"), "event", codes)
        path = self.plan.staging / "routed" / f"{index:06d}-{block:05d}.arrow"
        table = with_event_names(table, events.dictionary.to_pylist())
        spill(table, buckets_of(hash_ids(table["user_id"])), path)

    def _keep_rejected(self, table: pa.Table, index: int) -> dict[str, int]:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        name = f"{self.plan.version.name}-{index:06d}.parquet"
        write_bytes(sink.getvalue(), self.plan.version / "rejected" / name)
        return {count["values"]: count["counts"] for count in table["rule"].value_counts().to_pylist()}


class RouteUsers:
    """Task: pieces of the table of users -> its rows, spilled by hash bucket."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Route each piece in the batch; returns its indices."""
        for index in batch["piece"].to_pylist():
            try:
                for block, table in enumerate(self._read(self.plan.user_pieces[index])):
                    path = self.plan.staging / "users" / f"{index:06d}-{block:05d}.arrow"
                    spill(table, buckets_of(hash_ids(table["id"])), path)
            except UserError as error:
                self.plan.tell(f"users-{index:06d}", error)
        return batch

    def _read(self, piece: Piece) -> Iterator[pa.Table]:
        config = self.plan.config
        assert config.users is not None
        for table in read_table(config.users, piece, config.drop):
            if self.plan.secret is None:
                yield table
            else:
                yield table.set_column(0, "id", pseudonyms(table["id"], self.plan.secret))


class RouteItems:
    """Task: the table of items whose features change over time -> one table that every lane maps."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Read the whole table; returns the batch."""
        config = self.plan.config
        assert config.items is not None
        try:
            pieces = table_pieces(config.items)
            blocks = [block for piece in pieces for block in read_table(config.items, piece, config.drop)]
            write_arrow(concat_blocks(blocks), self.plan.staging / "items.arrow")
        except UserError as error:
            self.plan.tell("items", error)
        return batch


def too_many_events(names: list[str]) -> str:
    """Return what to tell a user whose event column holds ids."""
    return (
        f"event: the logs name {len(names):,} kinds of events ({', '.join(sorted(names)[:3])}, ...), at most "
        f"{MAX_EVENT_NAMES} are possible; columns.event is to hold a kind (click, purchase), not an id"
    )


class _Counts:
    """How many events of which name, in which hours, and the newest."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.hours: Counter[int] = Counter()
        self.newest = 0
        self.without_time = 0

    def add(self, table: pa.Table) -> None:
        for pair in pc.value_counts(table["event"]).to_pylist():
            self.events[pair["values"]] += pair["counts"]
        self.without_time += table["timestamp"].null_count
        times = pc.drop_null(table["timestamp"]).to_numpy()
        if len(times):
            self.newest = max(self.newest, int(times.max()))
            hours = times // _HOUR
            first = int(hours.min())
            span = int(hours.max()) - first + 1
            if span < 1 << 22:
                found, numbers = np.arange(first, first + span), np.bincount(hours - first, minlength=span)
            else:
                found, numbers = np.unique(hours, return_counts=True)
            for hour, number in zip(found.tolist(), numbers.tolist(), strict=True):
                if number:
                    self.hours[hour] += number

    def as_dict(self) -> dict[str, Any]:
        return {
            "events": dict(self.events),
            "hours": {str(hour): count for hour, count in self.hours.items()},
            "newest": self.newest,
            "without_time": self.without_time,
        }


def _rules(source: SourceConfig, config: RulesConfig, unit: str | None, now_ms: int) -> RowRules:
    columns: Columns | None = getattr(source, "columns", None)
    event = columns.event if columns else None
    return RowRules(
        now_ms=now_ms if config.future else _NO_END,
        time_unit=unit,
        known_unit=columns is None or columns.time_unit != "auto",
        events=event.map if isinstance(event, EventColumn) else None,
        ranges=config.ranges,
    )


def _count(counts: dict[str, int], name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + number
