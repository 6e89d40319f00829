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
from raysys.data.validation import as_text
from raysys.errors import UserError, nearest

_BLOCK_BYTES = 16 << 20  # no line of a JSON table may be longer


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

    Where an item has several rows, the first counts.

    Raises:
        UserError: the file's kind is not known, it cannot be read, or a named column is missing.
    """
    try:
        table = pa.concat_tables([_read(path) for path in find_files(config.path)], promote_options="permissive")
        columns = {name: _column(table, name, column, config) for name, column in _wanted(config).items()}
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"items.path: {config.path}: cannot be read as a table of items: {error}") from None
    first = pa.table(columns).append_column("place", pa.array(np.arange(table.num_rows)))
    kept = first.group_by("item_id").aggregate([("place", "min")])["place_min"]
    return first.take(kept).drop_columns(["place"])


def _wanted(config: ItemsConfig) -> dict[str, str]:
    wanted = {"item_id": config.id, **{name: name for name in config.categories}}
    return wanted if config.title is None else {**wanted, "title": config.title}


def _column(table: pa.Table, name: str, column: str, config: ItemsConfig) -> pa.ChunkedArray:
    if column not in table.column_names:
        place = {"item_id": "id", "title": "title"}.get(name, "categories")
        raise UserError(
            f"items.{place}: {config.path} has no column {column!r}{nearest(column, table.column_names)} "
            f"(it has: {', '.join(table.column_names)})"
        )
    return as_text(table[column]) if name == "item_id" else _plain_text(table[column])


def _read(path: str) -> pa.Table:
    name = path.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        return pq.read_table(path)
    if name.endswith((".jsonl", ".ndjson", ".json")):
        with pa.input_stream(path, compression="detect") as stream:
            return pyarrow.json.read_json(stream, pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES))
    if name.endswith((".csv", ".tsv")):
        parts = [rows for rows, _, _ in read_text(path, "," if name.endswith(".csv") else "\t")]
        if not parts:
            raise UserError(f"items.path: {path}: the table has a header and no rows")
        return pa.concat_tables(parts)
    raise UserError(f"items.path: {path}: an item table ends in .parquet, .csv, .tsv or .jsonl (plain or .gz)")


def _plain_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(column.type):
        texts = [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return pc.cast(column, pa.string())
