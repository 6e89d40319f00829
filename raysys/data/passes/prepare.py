"""From the events of a lane to the draft of its shard: join labels and tables, clean, mark, and take statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.as_of import join_as_of
from raysys.data.attribution import attribute, horizons
from raysys.data.cleaning import clean, k_core_round, rare_items
from raysys.data.features import concat_blocks
from raysys.data.files import read_arrow, write_arrow
from raysys.data.lanes import LaneEvents
from raysys.data.passes.learn import merged_folder
from raysys.data.passes.plan import LaneTask, Plan, Survey, read_spilled, spilled, write_summary
from raysys.data.schema import LABEL_PREFIX, ROWS, Split
from raysys.data.sequences import count_marks, draft_rows, from_log, gather_lane, train_categories, train_items


class CountItems(LaneTask):
    """Task of one round of a k-core: logs of lanes -> what is left of each of their items."""

    def __init__(self, plan: Plan, survey: Survey, excluded: Path | None, folder: Path) -> None:
        super().__init__(plan, survey)
        self.excluded = excluded
        self.folder = folder

    def run(self, number: int) -> None:
        """Count for one lane."""
        lane, train, _ = enrich(self.plan, self.survey, number, from_own_log(self.plan, self.survey, number))
        counts = k_core_round(lane, self.plan.config.clean, read_excluded(self.excluded), train)
        write_arrow(counts, self.folder / f"{number:05d}.arrow")


class ExcludeRare:
    """Task at the end of a round: what is left of the items in all lanes -> the ids that are left out from now on."""

    def __init__(self, plan: Plan, excluded: Path | None, folder: Path) -> None:
        self.plan = plan
        self.excluded = excluded
        self.folder = folder

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Add the rare items to those that were left out before; returns the batch."""
        core = self.plan.config.clean.k_core
        assert core is not None
        counts = [read_arrow(part) for part in sorted(self.folder.glob("[0-9]*.arrow"))]
        excluded, _ = rare_items(counts, core, read_excluded(self.excluded))
        write_arrow(pa.table({"item_id": excluded}), self.folder.with_suffix(".arrow"))
        return batch


class PrepareLanes(LaneTask):
    """Task: logs of lanes -> drafts of their shards, once the rounds of a k-core know what is left out."""

    def __init__(self, plan: Plan, survey: Survey, excluded: Path | None) -> None:
        super().__init__(plan, survey)
        self.excluded = excluded

    def run(self, number: int) -> None:
        """Prepare one lane."""
        prepare(self.plan, self.survey, number, from_own_log(self.plan, self.survey, number), self.excluded)


def from_own_log(plan: Plan, survey: Survey, number: int) -> LaneEvents:
    """Return the events of a lane as its log keeps them."""
    log = from_log(read_arrow(plan.version / "log" / f"{number:05d}.arrow"), plan.fields.columns)
    return gather_lane([log], survey.event_names, plan.config.history)


def read_excluded(path: Path | None) -> pa.Array | None:
    """Return the item ids that the rounds of a k-core left out, ascending."""
    return None if path is None else read_arrow(path)["item_id"].combine_chunks()


def prepare(plan: Plan, survey: Survey, number: int, lane: LaneEvents, excluded: Path | None = None) -> None:
    """Write the draft of a lane, what its training events teach, and its summary.

    Raises:
        UserError: the config asks for something that the events do not have.
    """
    name, logged = f"{number:05d}.arrow", len(lane)
    lane, train, cleaned = enrich(plan, survey, number, lane)
    lane, counts = clean(lane, plan.config.clean, read_excluded(excluded), train)
    cleaned |= counts
    splitting = survey.splitting
    marks = splitting.mark(lane)
    until = horizons(lane, marks, survey.log_end_ms, splitting.periods)
    for label, join in plan.config.labels.items():
        lane = lane.with_column(LABEL_PREFIX + label, attribute(lane, join, label, until))
    assert logged == len(lane) + sum(cleaned.values()), f"lane {number}: {logged} events, {cleaned} cleaned"
    write_arrow(draft_rows(lane, marks, survey.fields), plan.staging / "drafts" / name)
    write_arrow(train_items(lane, marks), plan.version / "items" / name)
    for category in survey.fields.categories:
        write_arrow(train_categories(lane, marks, category), merged_folder(plan, category, 0) / name)
    write_arrow(pa.table(count_marks(lane, marks), schema=ROWS), plan.staging / "rows" / name)
    summary = {"lane": number, "cleaned": cleaned, "open_windows": _open_windows(plan, lane, until, survey)}
    write_summary(summary | _statistics(lane, marks, survey), plan.staging / "lanes" / f"{number:05d}.json")


def enrich(plan: Plan, survey: Survey, number: int, lane: LaneEvents) -> tuple[LaneEvents, np.ndarray, dict[str, int]]:
    """Join the tables that change over time, and leave out what the split holds out of everything.

    Returns the lane, which of its events are of the training period [E], and how many the split left out.
    """
    config, left_out = plan.config, {}
    if config.users is not None and config.users.timestamp is not None:
        lane = join_as_of(lane, user_details(plan, survey, number), "user")
    if config.items is not None and config.items.timestamp is not None:
        lane = join_as_of(lane, read_arrow(plan.staging / "items.arrow"), "item")
    held_out = survey.splitting.drop(lane)
    if held_out is not None and held_out.any():
        left_out["held_out_item"] = int(held_out.sum())
        lane = lane.keep(~held_out)
    return lane, survey.splitting.mark(lane) == Split.TRAIN, left_out


def user_details(plan: Plan, survey: Survey, number: int) -> pa.Table:
    """Return the rows of the table of users that belong to a lane."""
    low, high = survey.bounds[number : number + 2]
    parts = [read_spilled(path, low, high) for path in spilled(plan.staging / "users")]
    return concat_blocks(parts)


def _open_windows(plan: Plan, lane: LaneEvents, until: np.ndarray, survey: Survey) -> int:
    """Count the events whose label later days may still tell."""
    total = 0
    for label, join in plan.config.labels.items():
        if join.on in lane.event_names:
            asked = (lane.events == lane.event_names.index(join.on)) & (until >= survey.log_end_ms)
            unknown = pc.is_null(lane.columns[LABEL_PREFIX + label]).to_numpy(zero_copy_only=False)
            total += int(np.sum(asked & unknown))
    return total


def _statistics(lane: LaneEvents, marks: np.ndarray, survey: Survey) -> dict[str, Any]:
    train = pa.array(marks == Split.TRAIN)
    labels = {}
    for name in survey.fields.labels:
        known = pc.drop_null(lane.columns[LABEL_PREFIX + name].filter(train))
        labels[name] = (pc.sum(known).as_py() or 0.0, len(known))
    timed = lane.times[lane.times != 0]
    named = (Split.TRAIN, Split.VALID, Split.TEST)
    return {
        "users": len(lane.users),
        "events": len(lane),
        "marks": {mark.name.lower(): int(np.sum(marks == mark)) for mark in named},
        "names": {
            name: [int(np.sum((lane.events == code) & (marks == mark))) for mark in named]
            for code, name in enumerate(lane.event_names)
        },
        "labels": labels,
        "times": (int(timed.min()), int(timed.max())) if len(timed) else (None, None),
    }
