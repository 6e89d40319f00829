"""Users of a dataset as a person reads them: their features, and their events in order, with split marks."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import RenderableType
from rich.text import Text

from raysys.commands.dataset_tables import grid
from raysys.data.catalog import Catalog
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.privacy import Pseudonymise, key_check, pseudonym
from raysys.data.profile import MARKS, moment
from raysys.data.reader import ShardReader, UserRows
from raysys.data.schema import FIRST_ITEM
from raysys.data.vocabulary import Vocabulary
from raysys.data.wording import printable
from raysys.errors import UserError


def spread_users(dataset: Dataset, count: int) -> np.ndarray:
    """Return at most `count` rows of the dataset [U] i64, evenly spread."""
    num_users = dataset.manifest.num_users
    return np.linspace(0, max(num_users - 1, 0), min(count, num_users)).astype(np.int64)


def find_user(dataset: Dataset, user_id: str) -> np.ndarray:
    """Return the row [1] i64 of a user: by its real id where the key of a pseudonymised dataset is set.

    Raises:
        UserError: there is no such user, or the key is another one than the dataset's.
    """
    names, hint = [user_id], "`raysys data sample DATASET` shows some users"
    if (node := dataset.manifest.config.get("pseudonymise")) is not None:
        config = Pseudonymise.model_validate(node)
        variable = config.key.removeprefix("env ")
        hint = f"users stand here under pseudonyms; give one of these, or set ${variable} to look up a real id"
        if os.environ.get(variable):
            secret = config.secret()
            if dataset.manifest.key_check not in (None, key_check(secret)):
                raise UserError(f"--user: ${variable} holds another key than the one that made {dataset.path}")
            names, hint = (
                [pseudonym(user_id, secret), user_id],
                "neither its pseudonym nor a user of that name is there",
            )
    for name in names:
        before = 0
        for path in dataset.shard_paths:
            users = read_arrow(path)["user_id"]
            found = pc.index(users, pa.scalar(name)).as_py()
            if found >= 0:
                return np.array([before + found])
            before += len(users)
    raise UserError(f"--user {user_id}: no such user in {dataset.path}; {hint}")


def user_tables(dataset: Dataset, rows: np.ndarray, most: int) -> Iterator[RenderableType]:
    """Yield the users of dataset rows [U], each with its `most` newest events."""
    reader, catalog = ShardReader(dataset, columns=True), dataset.catalog
    values = {name: dataset.category_values(name) for name in dataset.manifest.categories}
    for row, user in zip(rows, reader.user_ids(rows).to_pylist() if len(rows) else [], strict=True):
        events = reader.rows(np.array([row]))
        counts = {name: int(np.sum(events.marks == mark)) for mark, name in MARKS.items()}
        parts = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        yield Text(printable(f"user {user}: {len(events.items):,} events ({parts})"), style="bold")
        yield from _features(dataset.users_path, int(row))
        hidden = len(events.items) - most
        if hidden > 0:
            yield Text(f"{hidden:,} earlier events are not shown", style="dim")
        yield _table(dataset, catalog, values, events, range(max(hidden, 0), len(events.items)))


def _features(path: Path, row: int) -> Iterator[RenderableType]:
    if path.exists():
        (one,) = read_arrow(path).slice(row, 1).to_pylist()
        known = {name.partition(".")[2] or name: value for name, value in one.items() if name != "user_id"}
        yield Text(printable(", ".join(f"{name} {_shown(value)}" for name, value in known.items())))


def _table(
    dataset: Dataset, catalog: Catalog, values: dict[str, Vocabulary], rows: UserRows, shown: range
) -> RenderableType:
    manifest = dataset.manifest
    when = "time (UTC)" if manifest.time_range else "event no."
    header = (when, "event", "item", *manifest.labels, *manifest.numbers, *values, "split")
    lines = []
    for at, item in zip(shown, _items(catalog, rows.items[shown.start : shown.stop]), strict=True):
        time = moment(int(rows.times[at])) if manifest.time_range and rows.times[at] else f"{at + 1:,}"
        numbers = [_shown(float(column[at])) for column in (*rows.labels.values(), *rows.context.numbers.values())]
        codes = [int(rows.context.categories[name][at]) - FIRST_ITEM for name in values]
        named = [v.item_ids[c].as_py() if c >= 0 else "-" for v, c in zip(values.values(), codes, strict=True)]
        mark = MARKS[rows.marks[at]]
        event = manifest.event_names[rows.events[at]]
        lines.append((time, event, item, *numbers, *named, "" if mark == "train" else mark))
    columns = len(header)
    return grid("", header, lines, (0, 1, 2, *range(columns - 1 - len(values), columns)))


def _items(catalog: Catalog, indices: np.ndarray) -> list[str]:
    known = pa.array(np.where(indices >= FIRST_ITEM, indices - FIRST_ITEM, 0))
    ids, titles = (catalog.table[name].take(known).to_pylist() for name in ("item_id", "title"))
    named = [f"{title} ({name})" if title else name for name, title in zip(ids, titles, strict=True)]
    return [
        name if index >= FIRST_ITEM else "(outside the vocabulary)" for name, index in zip(named, indices, strict=True)
    ]


def _shown(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value[:8])) + (", ...]" if len(value) > 8 else "]")
    return f"{value:.6g}" if isinstance(value, float) else str(value)
