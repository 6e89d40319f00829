"""A version of a dataset with fewer items: the shards stay where they are, and what was cut is unknown in them."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysys.data.catalog import Catalog
from raysys.data.dataset import MANIFEST, Dataset, View
from raysys.data.files import write_bytes
from raysys.data.schema import FIRST_ITEM
from raysys.data.vocabulary import Vocabulary


def write_view(base: Dataset, kept: np.ndarray, path: Path) -> Dataset:
    """Write what a view of a dataset needs beside the shards into a directory, and open it.

    `kept` are item indices, ascending [K]. Events are as many as before, so that a held-out one whose item was cut
    counts as a miss; it only is no token. The manifest is written last.
    """
    rows = pa.array(kept - FIRST_ITEM)
    vocabulary = Vocabulary(base.vocabulary.item_ids.take(rows))
    vocabulary.save(path / "vocabulary.arrow")
    Catalog(base.catalog.table.take(rows).combine_chunks()).save(path / "catalog.arrow")
    digest = hashlib.sha256("\0".join([base.manifest.fingerprint, *vocabulary.item_ids.to_pylist()]).encode())
    manifest = base.manifest.model_copy(
        update={
            "num_items": vocabulary.num_items,
            "fingerprint": digest.hexdigest(),
            "view": View(of=str(base.path.absolute()), fingerprint=base.manifest.fingerprint),
        }
    )
    write_bytes(manifest.model_dump_json(indent=1).encode(), path / MANIFEST)
    return Dataset.open(path)
