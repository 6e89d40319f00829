"""Between the passes: what the lanes' training events teach is merged, level by level, into one vocabulary each."""

import dataclasses
from pathlib import Path

import pyarrow as pa

from raysys.data.catalog import Catalog, build_catalog
from raysys.data.config import IngestConfig
from raysys.data.features import latest
from raysys.data.files import read_arrow, write_arrow
from raysys.data.passes.plan import Plan, format_of, write_summary
from raysys.data.schema import Fields
from raysys.data.tables import TableReport, details_of, read_details
from raysys.data.vocabulary import Vocabulary, extend, merge_items
from raysys.errors import UserError

FAN_IN = 8
"""Tables that one task merges: bounds its memory, whatever the number of lanes."""


class MergeParts:
    """Task: up to FAN_IN tables of (id, first time, count) -> one."""

    def __init__(self, groups: tuple[tuple[Path, ...], ...], folder: Path) -> None:
        self.groups = groups
        self.folder = folder

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Merge each group in the batch; returns their numbers."""
        for number in batch["group"].to_pylist():
            write_arrow(merge_items([read_arrow(path) for path in self.groups[number]]), self.target(number))
        return batch

    def target(self, number: int) -> Path:
        """Return where the merged table of a group lies."""
        return self.folder / f"{number:05d}.arrow"


def groups_of(paths: list[Path]) -> tuple[tuple[Path, ...], ...]:
    """Cut a list of files into groups that one task can merge."""
    return tuple(tuple(paths[at : at + FAN_IN]) for at in range(0, len(paths), FAN_IN))


class LearnVocabularies:
    """Task: merged tables -> the vocabulary of items with the catalog, and one vocabulary per context category."""

    def __init__(self, plan: Plan, fields: Fields, parts: Path) -> None:
        self.plan = plan
        self.fields = fields
        self.parts = parts

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
        merged = merge_items([read_arrow(path) for path in sorted((self.parts / name).glob("[0-9]*.arrow"))])
        if earlier is None or not earlier.exists():
            return merged
        return extend(Vocabulary.load(earlier).item_ids, merged)


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


def category_path(version: Path, name: str) -> Path:
    """Return where a dataset version keeps the values of a context category, in index order."""
    return version / "categories" / f"{name}.arrow"
