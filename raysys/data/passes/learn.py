"""Between the passes: what the lanes' training events teach is merged, level by level, into one vocabulary each."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.catalog import Catalog, build_catalog
from raysys.data.config import IngestConfig
from raysys.data.dataset import category_path, file_name
from raysys.data.features import latest
from raysys.data.files import read_arrow, write_arrow, write_bytes
from raysys.data.passes.plan import Plan, format_of, write_summary
from raysys.data.schema import FIRST_ITEM, UNKNOWN
from raysys.data.tables import TableReport, details_of, read_details
from raysys.data.vocabulary import Vocabulary, extend, merge_items
from raysys.errors import UserError

FAN_IN = 8
"""Tables that one task merges: bounds its memory, whatever the number of lanes."""


class MergeParts:
    """Task: up to FAN_IN tables of (id, first time, count) -> one, and where the rows of each went."""

    def __init__(self, plan: Plan, name: str, level: int, parts: tuple[Path, ...]) -> None:
        self.plan = plan
        self.name = name
        self.level = level
        self.parts = parts

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Merge each group of parts in the batch; returns their numbers."""
        for number in batch["group"].to_pylist():
            own = self.parts[number * FAN_IN : (number + 1) * FAN_IN]
            merged = merge_items([read_arrow(path) for path in own])
            write_arrow(merged.items, merged_folder(self.plan, self.name, self.level + 1) / f"{number:05d}.arrow")
            write_places(self.plan, self.name, self.level, merged.places, number * FAN_IN)
        return batch


def merged_folder(plan: Plan, name: str, level: int) -> Path:
    """Return where the tables of a level lie; level 0 are the lanes' own, "" names the items."""
    root = plan.version if level == 0 else plan.staging / "merged" / str(level)
    return root / "items" if name == "" else root / "values" / file_name(name)


def write_places(plan: Plan, name: str, level: int, places: list[np.ndarray], first: int) -> None:
    """Keep where the rows of some tables of a level went in the next, i32; only items are looked up again."""
    for number, place in enumerate(places if name == "" else [], start=first):
        write_bytes(place.astype(np.int32).tobytes(), plan.staging / "places" / str(level) / f"{number:05d}")


def item_indices(plan: Plan, lane: int, num_lanes: int) -> np.ndarray:
    """Return the vocabulary index of each row of a lane's table of items [I] i32, UNKNOWN where it has none."""
    number, count, level, place = lane, num_lanes, 0, None
    while True:
        step = np.fromfile(plan.staging / "places" / str(level) / f"{number:05d}", np.int32)
        place = step if place is None else step[place]
        if count <= FAN_IN:
            return place
        number, count, level = number // FAN_IN, -(-count // FAN_IN), level + 1


class LearnVocabularies:
    """Task: merged tables -> the vocabulary of items with the catalog, and one vocabulary per context category."""

    def __init__(self, plan: Plan, level: int) -> None:
        self.plan = plan
        self.level = level

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Learn each vocabulary named in the batch ("" is that of the items); returns the names."""
        for name in batch["name"].to_pylist():
            try:
                self._items() if name == "" else self._category(name)
            except UserError as error:
                self.plan.tell(f"learn-{name}", error)
        return batch

    def _items(self) -> None:
        plan = self.plan
        items = self._merged("", plan.base and plan.base / "vocabulary.arrow")
        if not items.num_rows:
            raise UserError("split: no event is left to train on; move valid_from to a later time or use leave_one_out")
        Vocabulary(items["item_id"].combine_chunks()).save(plan.version / "vocabulary.arrow")
        details, report = item_details(plan.config, items["item_id"].combine_chunks())
        write_summary(dataclasses.asdict(report), plan.staging / "tables" / "items.json")
        earlier = Catalog.load(plan.base / "catalog.arrow") if plan.base else None
        build_catalog(items, details, earlier).save(plan.version / "catalog.arrow")

    def _category(self, name: str) -> None:
        values = self._merged(name, self.plan.base and category_path(self.plan.base, name))
        Vocabulary(values["item_id"].combine_chunks()).save(category_path(self.plan.version, name))

    def _merged(self, name: str, earlier: Path | None) -> pa.Table:
        """Merge what is left of the tables; the places of their rows become indices."""
        parts = sorted(merged_folder(self.plan, name, self.level).glob("[0-9]*.arrow"))
        merged = merge_items([read_arrow(path) for path in parts])
        learned = merged.learned
        if earlier is not None and earlier.exists():
            learned = extend(Vocabulary.load(earlier).item_ids, learned)
            found = pc.index_in(merged.items["item_id"], learned["item_id"].combine_chunks())
            index = pc.fill_null(pc.add(found, FIRST_ITEM), UNKNOWN).to_numpy()
        else:
            index = np.arange(merged.items.num_rows) + FIRST_ITEM
            index[learned.num_rows :] = UNKNOWN
        write_places(self.plan, name, self.level, [index[place] for place in merged.places], 0)
        return learned


def item_details(config: IngestConfig, wanted: pa.Array) -> tuple[pa.Table | None, TableReport]:
    """Return what the table of items says of the wanted ids; without one, what comes with the first format that has it.

    Of a table that changes over time only the titles: the rest is joined to the events.
    """
    if config.items is None:
        tables = (format_of(source).items() for source in config.sources)
        return next((details_of(table) for table in tables if table is not None), None), TableReport()
    details, report = read_details(config.items, config.drop, wanted)
    if config.items.timestamp is None:
        return details, report
    kept = [name for name in ("id", "title") if name in details.column_names]
    return latest(details).select(kept), report
