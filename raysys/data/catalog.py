"""The item side of a dataset: what people read about an item, and how popular it was in training."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from raysys.data.files import read_arrow, write_arrow
from raysys.data.formats.delimited import read_text
from raysys.data.formats.source import ItemsConfig, find_files
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError, nearest


class Catalog:
    """One row per real item, in vocabulary order: item_id, title (null = unknown), popularity, categories."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @property
    def popularity(self) -> np.ndarray:
        """History events in training per vocabulary index [V] f32; 0 for PAD and UNKNOWN."""
        counts = self.table["popularity"].to_numpy().astype(np.float32)
        return np.concatenate([np.zeros(FIRST_ITEM, np.float32), counts])

    def titles(self, indices: np.ndarray) -> list[str | None]:
        """Return the titles of real-item indices."""
        return self.table["title"].take(pa.array(np.asarray(indices).reshape(-1) - FIRST_ITEM)).to_pylist()

    def save(self, path: Path) -> None:
        """Write the table as an Arrow file."""
        write_arrow(self.table, path)

    @staticmethod
    def load(path: Path) -> "Catalog":
        """Map the file that `save` wrote."""
        return Catalog(read_arrow(path))


def build_catalog(train_items: pa.Table, details: pa.Table | None) -> Catalog:
    """Join train-period counts (in vocabulary order) with the details of items, if there are any."""
    table = pa.table({"item_id": train_items["item_id"], "popularity": train_items["count"]})
    if details is None:
        return Catalog(table.append_column("title", pa.nulls(table.num_rows, pa.string())).combine_chunks())
    place = pc.index_in(table["item_id"], details["item_id"])
    for name in details.column_names:
        if name != "item_id":
            table = table.append_column(name, details[name].take(place))
    if "title" not in table.column_names:
        table = table.append_column("title", pa.nulls(table.num_rows, pa.string()))
    return Catalog(table.combine_chunks())


def read_details(config: ItemsConfig) -> pa.Table:
    """Read the configured item table: item_id, title and the named categories, as text.

    Raises:
        UserError: the file's kind is not known, or a named column is missing.
    """
    table = pa.concat_tables([_read(path) for path in find_files(config.path)], promote_options="permissive")
    wanted = {"item_id": config.id, **{name: name for name in config.categories}}
    if config.title is not None:
        wanted["title"] = config.title
    for name, column in wanted.items():
        if column not in table.column_names:
            raise UserError(
                f"items.{'id' if name == 'item_id' else name}: {config.path} has no column {column!r}"
                f"{nearest(column, table.column_names)} (it has: {', '.join(table.column_names)})"
            )
    columns = {name: _plain_text(table[column]) for name, column in wanted.items()}
    first = pa.table(columns).append_column("place", pa.array(np.arange(table.num_rows)))
    kept = first.group_by("item_id").aggregate([("place", "min")])["place_min"]
    return first.take(kept).drop_columns(["place"])


def _read(path: str) -> pa.Table:
    name = path.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        return pq.read_table(path)
    if name.endswith((".jsonl", ".ndjson", ".json")):
        with pa.input_stream(path, compression="detect") as stream:
            return pyarrow.json.read_json(stream)
    if name.endswith((".csv", ".tsv")):
        return pa.concat_tables([rows for rows, _, _ in read_text(path, "," if name.endswith(".csv") else "\t")])
    raise UserError(f"items.path: {path}: an item table ends in .parquet, .csv, .tsv or .jsonl (plain or .gz)")


def _plain_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(column.type):
        return pa.chunked_array([pa.array([None if v is None else json.dumps(v) for v in column.to_pylist()])])
    return pc.cast(column, pa.string())
