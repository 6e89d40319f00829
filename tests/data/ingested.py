"""What stands in a dataset directory, in plain Python, so that a test can compare it with what it should be."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.dataset import Dataset, Manifest
from raysys.data.files import read_arrow
from raysys.data.schema import CATEGORY_PREFIX, LABEL_PREFIX, NUMBER_PREFIX

Line = list[dict]  # one dict per event of a user, in order


def lines_of(dataset: Dataset) -> dict[str, Line]:
    """Every user's events: item and categories as texts (None where training never saw them), None for unknown numbers.

    Keys are item, event, time (ms), mark, and the names of labels, numbers and categories without prefix.
    """
    manifest = dataset.manifest
    items = [None, None, *dataset.vocabulary.item_ids.to_pylist()]
    values = {
        name: [None, None, *read_arrow(dataset.path / "categories" / f"{name}.arrow")["item_id"].to_pylist()]
        for name in manifest.categories
    }
    found: dict[str, Line] = {}
    for path in dataset.shard_paths:
        for row in read_arrow(path).to_pylist():
            line = []
            for at, item in enumerate(row["items"]):
                event = {"item": items[item], "event": manifest.event_names[row["events"][at]]}
                event |= {"time": row["times"][at], "mark": row["marks"][at]}
                for prefix, names in ((LABEL_PREFIX, manifest.labels), (NUMBER_PREFIX, manifest.numbers)):
                    event |= {name: row[prefix + name][at] for name in names}
                event |= {name: values[name][row[CATEGORY_PREFIX + name][at]] for name in values}
                line.append(event)
            assert row["user_id"] not in found
            found[row["user_id"]] = line
    assert len(found) == manifest.num_users
    return found


def events_of(dataset: Dataset) -> pd.DataFrame:
    """All events as one frame: user, and the keys of `lines_of`."""
    return pd.DataFrame([{"user": user, **event} for user, line in lines_of(dataset).items() for event in line])


def popularity_of(dataset: Dataset) -> dict[str, int]:
    """How often each item is taken, as the catalog says; items with a count of 0 are left out."""
    table = dataset.catalog.table
    counts = zip(table["item_id"].to_pylist(), table["popularity"].to_pylist(), strict=True)
    return {item: count for item, count in counts if count}


def recounted(dataset: Dataset) -> dict[str, int]:
    """How often training takes each item, counted from the users' lines."""
    events = events_of(dataset)
    if not len(events):
        return {}
    taken = events[(events["mark"] == 0) & events["event"].isin(dataset.manifest.history)]
    return {str(item): int(count) for item, count in taken["item"].value_counts().items()}


def rejected_of(dataset: Dataset) -> list[dict]:
    """The rows kept aside, in the order of the files."""
    paths = sorted((dataset.path / "rejected").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def logged(dataset: Dataset) -> int:
    """Events in the log that later days are added to."""
    return sum(read_arrow(path).num_rows for path in sorted((dataset.path / "log").iterdir()))


def assert_counted(dataset: Dataset) -> None:
    """Every row that was read is somewhere, once."""
    manifest = dataset.manifest
    assert manifest.rows == manifest.kept + sum(manifest.rejected.values()) + sum(manifest.cleaned.values())
    in_shards = sum(len(line) for line in lines_of(dataset).values())
    assert manifest.kept == manifest.num_events == in_shards
    found: dict[str, int] = {}
    for row in rejected_of(dataset):
        found[row["rule"]] = found.get(row["rule"], 0) + 1
    assert found == manifest.rejected
    once = sum(manifest.cleaned_rows.values())
    assert logged(dataset) == manifest.kept + sum(manifest.cleaned.values()) - once
    assert sum(sum(counts) for counts in manifest.events_by_name.values()) == sum(manifest.events_by_split.values())
    assert len(dataset.rows) == manifest.num_users
    assert popularity_of(dataset) == recounted(dataset)


def digests(dataset: Dataset) -> dict[str, str]:
    """sha256 of every file by its path in the version, but of the manifest and the list of files, which name paths."""
    found = {}
    for path in sorted(dataset.path.rglob("*")):
        name = str(path.relative_to(dataset.path))
        if path.is_file() and name not in ("manifest.json", "files.json"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def facts(manifest: Manifest, *, without: tuple[str, ...] = ()) -> dict:
    """The numbers of a manifest: all but its version, its place in a series and the config."""
    left_out = {"version", "parent", "config", "cleaned_rows", *without}
    return {name: value for name, value in manifest.model_dump().items() if name not in left_out}


def contents(folder: Path) -> str:
    """Everything that stands in the files below a folder, unpacked: raw bytes, and the values of Arrow and parquet."""
    texts = []
    for path in sorted(folder.rglob("*")):
        texts.append(str(path.relative_to(folder)))
        if not path.is_file():
            continue
        texts.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".arrow":
            texts += [text for column in read_arrow(path).columns for text in _texts(column)]
        elif path.suffix == ".parquet":
            texts.append(json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False, default=str))
    return "\n".join(texts)


def _texts(column: pa.ChunkedArray) -> list[str]:
    found = []
    for chunk in column.chunks:
        while isinstance(chunk, pa.ListArray):
            chunk = chunk.values
        if isinstance(chunk, pa.DictionaryArray):  # a value that no row has any more may still stand here
            found += map(str, chunk.dictionary.to_pylist())
        else:
            found += map(str, chunk.to_pylist())
    return found
