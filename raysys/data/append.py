"""Later days: which files are new, which lanes they touch, and what of the earlier version stays as it is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, Manifest, file_name
from raysys.data.files import link_or_copy, read_arrow, write_arrow
from raysys.data.formats.source import Piece
from raysys.data.passes.encode import summary_path
from raysys.data.passes.plan import Plan, Survey, read_begins, spilled, write_summary
from raysys.data.places import File
from raysys.data.schema import CATEGORY_PREFIX, LABEL_PREFIX, NUMBER_PREFIX, REQUEST_ID, Fields
from raysys.errors import UserError

LANES = "lanes.json"
FILES = "files.json"
# What a later day may say differently: everything else decides how the earlier days were read.
_FREE = ("root", "plugins", "sources", "items", "users", "split", "max_rejected", "events_per_shard", "pseudonymise")


def unread(pieces: Sequence[tuple[int, Piece]], files: dict[str, File], base: Dataset) -> list[tuple[int, Piece]]:
    """Return the pieces of files that the earlier version has not read.

    Raises:
        UserError: a file that it has read is another one now.
    """
    known = {entry["path"]: entry for entry in read_files(base.path)}
    for path, file in files.items():
        if path in known and (known[path]["size"], known[path]["modified"]) != (file.size, file.modified):
            raise UserError(
                f"--append: {path} has changed since {base.manifest.version} read it; days that were read must stay as "
                "they are: give new rows a new file, or ingest everything anew without --append"
            )
    return [(which, piece) for which, piece in pieces if piece.path not in known]


def check_extends(config: IngestConfig, manifest: Manifest, key_check: str | None) -> None:
    """Check that a config reads later days as the earlier ones were read.

    Raises:
        UserError: it says something else about what both have in common.
    """
    now, then = config.model_dump(mode="json"), manifest.config
    for name, value in now.items():
        if name not in _FREE and value != then.get(name):
            raise UserError(
                f"--append: {name}: {value!r} now, {then.get(name)!r} in {manifest.version}; the earlier days were "
                "read with that: put it back, or ingest everything anew without --append"
            )
    if key_check != manifest.key_check:
        raise UserError("--append: pseudonymise: another key than the dataset's; the same user would get two names")


def logged_fields(version: Path) -> Fields:
    """Return what the events in the log of a dataset version carry."""
    names = read_arrow(version / "log" / "00000.arrow").column_names
    labels, numbers, categories = (
        tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        for prefix in (LABEL_PREFIX, NUMBER_PREFIX, CATEGORY_PREFIX)
    )
    return Fields(labels, numbers, categories, REQUEST_ID in names)


def read_files(version: Path) -> list[dict[str, Any]]:
    """Return path, size and time of change of every file that a dataset version has read."""
    found: list[dict[str, Any]] = json.loads((version / FILES).read_text())
    return found


def read_lanes(version: Path) -> dict[str, Any]:
    """Return what a dataset version knows of its lanes and needs on later days.

    These are `bounds` (hash buckets of the lanes), `split`, `log_end_ms` (the newest event), `has_time`, `summaries`.
    """
    found: dict[str, Any] = json.loads((version / LANES).read_text())
    return found


def touched_lanes(plan: Plan, survey: Survey) -> list[int]:
    """Return the lanes that have to be gathered again; all of them where nothing is extended.

    These have new rows or labels whose window was open. A new kind of event, field or date of the split touches all.
    """
    lanes = range(len(survey.bounds) - 1)
    if plan.base is None:
        return list(lanes)
    manifest, earlier = Dataset.open(plan.base).manifest, read_lanes(plan.base)
    shard_columns = (manifest.labels, manifest.numbers, tuple(manifest.categories))
    fields = survey.fields
    same_split = earlier["split"] == survey.split.model_dump(mode="json")
    if (
        survey.event_names != manifest.event_names
        or shard_columns != (fields.labels, fields.numbers, fields.categories)
        or not same_split
    ):
        return list(lanes)
    fresh = np.zeros(len(lanes), bool)
    for path in spilled(plan.staging / "routed"):
        fresh |= np.diff(np.asarray(read_begins(path))[list(survey.bounds)]) > 0
    return [lane for lane in lanes if fresh[lane] or earlier["summaries"][lane]["open_windows"]]


def keep_rejected(plan: Plan) -> None:
    """Take over the rejected rows of earlier days."""
    assert plan.base is not None
    for path in (plan.base / "rejected").glob("[!.]*"):
        link_or_copy(path, plan.version / "rejected" / path.name)


def keep_lanes(plan: Plan, survey: Survey, lanes: Sequence[int]) -> None:
    """Take over what the earlier version learned from lanes that nothing new concerns: their log and their items."""
    assert plan.base is not None
    for lane in lanes:
        name = f"{lane:05d}.arrow"
        folders = [Path("log"), Path("items"), *(Path("values") / file_name(name) for name in survey.fields.categories)]
        for folder in folders:
            link_or_copy(plan.base / folder / name, plan.version / folder / name)


def keep_shards(plan: Plan, lanes: Sequence[int]) -> None:
    """Take over the shards of lanes that nothing new concerns, their rows and their summaries."""
    assert plan.base is not None
    summaries = read_lanes(plan.base)["summaries"]
    begins = np.cumsum([0, *(summary["users"] for summary in summaries)])
    rows = read_arrow(plan.base / "rows.arrow")
    for lane in lanes:
        name = f"{lane:05d}.arrow"
        link_or_copy(plan.base / "shards" / name, plan.version / "shards" / name)
        part = rows.slice(int(begins[lane]), int(begins[lane + 1] - begins[lane]))
        write_arrow(part, plan.staging / "rows" / name)
        write_summary(summaries[lane], summary_path(plan.staging, lane))


def stale_lanes(plan: Plan, lanes: Sequence[int]) -> list[int]:
    """Return those of the kept lanes whose shards name items that only now have an index."""
    assert plan.base is not None
    grown = [
        read_arrow(plan.version / name).num_rows > read_arrow(plan.base / name).num_rows
        for name in ("vocabulary.arrow", *(f"categories/{path.name}" for path in _categories(plan.base)))
    ]
    summaries = read_lanes(plan.base)["summaries"]
    return [lane for lane in lanes if any(grown) and summaries[lane]["unknown"]]


def _categories(version: Path) -> list[Path]:
    return sorted((version / "categories").glob("[!.]*.arrow"))
