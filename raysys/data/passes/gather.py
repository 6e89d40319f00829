"""Second pass: gather the users of a lane, apply the rules that need whole users, and keep its log for later days."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.files import read_arrow, write_arrow, write_bytes
from raysys.data.lane_rules import duplicates, too_fast
from raysys.data.lanes import LaneEvents
from raysys.data.passes.plan import LaneTask, read_spilled, spilled, write_summary
from raysys.data.passes.prepare import prepare
from raysys.data.schema import events_schema
from raysys.data.sequences import LogTable, event_names_of, from_log, gather_lane, log_of
from raysys.data.validation import REJECTED

_PIECE_BITS = 40


class GatherLanes(LaneTask):
    """Task: lanes -> their logs and, unless a k-core has to count them first, the drafts of their shards."""

    def run(self, number: int) -> None:
        """Gather one lane."""
        plan, name = self.plan, f"{number:05d}"
        lane, rejected = self._reject(self._events(number), number)
        write_arrow(log_of(lane), plan.version / "log" / f"{name}.arrow", compression="lz4")
        write_summary(rejected, plan.staging / "lane_rejects" / f"{name}.json")
        if plan.config.clean.k_core is None:
            prepare(plan, self.survey, number, lane)

    def _events(self, number: int) -> LaneEvents:
        """Sort what was kept of the lane on earlier days, and what was routed to it now."""
        plan, (low, high) = self.plan, self.survey.bounds[number : number + 2]
        parts = []
        if plan.base is not None:
            parts.append(from_log(read_arrow(plan.base / "log" / f"{number:05d}.arrow"), plan.fields.columns))
        for path in spilled(plan.staging / "routed"):
            table = read_spilled(path, low, high)
            parts += [LogTable(table, event_names_of(table))] if table.num_rows else []
        if not parts:
            schema = events_schema(plan.fields)
            empty = schema.set(schema.names.index("event"), pa.field("event", pa.int8())).empty_table()
            parts.append(LogTable(empty, ()))
        columns = ["user_id", "item_id", "event", "timestamp", "position", *plan.fields.columns]
        parts = [LogTable(part.table.select(columns), part.event_names) for part in parts]
        return gather_lane(parts, self.survey.event_names, plan.config.history)

    def _reject(self, lane: LaneEvents, number: int) -> tuple[LaneEvents, dict[str, int]]:
        rules = self.plan.config.rules
        verdicts = {}
        if rules.duplicates:
            verdicts["duplicate"] = duplicates(lane, self.survey.has_time)
        if rules.max_events_per_minute is not None and self.survey.has_time:
            verdicts["too_fast"] = too_fast(lane, rules.max_events_per_minute)
        bad = np.zeros(len(lane), bool)
        parts = []
        counts = {}
        for rule, broken in verdicts.items():
            chosen = broken & ~bad
            if chosen.any():
                counts[rule] = int(chosen.sum())
                parts.append(self._rejected(lane, np.flatnonzero(chosen), rule))
                bad |= chosen
        if parts:
            sink = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(parts), sink)
            name = f"{self.plan.version.name}-lane-{number:05d}.parquet"
            write_bytes(sink.getvalue(), self.plan.version / "rejected" / name)
        return lane.keep(~bad), counts

    def _rejected(self, lane: LaneEvents, rows: np.ndarray, rule: str) -> pa.Table:
        """Return REJECTED rows of events: their values as they were read, and where they stood."""
        place, plan = pa.array(rows), self.plan
        position = lane.columns["position"].take(place).to_numpy()
        pieces = [plan.pieces[index][1] if index >= 0 else None for index in (position >> _PIECE_BITS).tolist()]
        numbers = (position & ((1 << _PIECE_BITS) - 1)).tolist()
        values = {
            "user_id": lane.users.take(pa.array(lane.owner[rows])).to_pylist(),
            "item_id": lane.item_ids.take(pa.array(lane.items[rows])).to_pylist(),
            "event": [lane.event_names[code] for code in lane.events[rows].tolist()],
            "timestamp": lane.times[rows].tolist(),
            **{name: lane.columns[name].take(place).to_pylist() for name in plan.fields.columns},
        }
        records = [json.dumps(dict(zip(values, record, strict=True))) for record in zip(*values.values(), strict=True)]
        return pa.table(
            {
                "rule": [rule] * len(rows),
                "source": [piece.path if piece else str(plan.base) for piece in pieces],
                "row": [None if piece and piece.by_offset else n for piece, n in zip(pieces, numbers, strict=True)],
                "offset": [n if piece and piece.by_offset else None for piece, n in zip(pieces, numbers, strict=True)],
                "record": records,
            },
            schema=REJECTED,
        )
