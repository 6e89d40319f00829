"""Searches of faiss: all vectors in half precision, or only those of the nearest cells."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.schema import FIRST_ITEM, PAD
from raysys.errors import UserError
from raysys.evaluation.ranking import Candidates
from serving.index.allowed import Allowed
from serving.index.exact import search_exactly
from serving.index.index import Asked, Index
from serving.index.recall import Recall, measure_recall
from serving.index.scores import Products


def load_faiss() -> Any:
    """Return the module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UserError(
            "retrieval.kind: flat16 and approximate need faiss; `pip install raysys[faiss]`, or take exact"
        ) from None
    return faiss


class _Faiss(Index):
    """What both have in common: more is fetched than is wanted, and scored again in full precision."""

    _batch = 1 << 30
    """Questions at once from which exact search is faster."""

    def __init__(self, config: FrozenConfig, products: Products, sample: Callable[[], Tensor]) -> None:
        super().__init__(config, products, sample)
        self._faiss = load_faiss()
        self._threads()
        self._sample = sample()
        self._index = self._build(np.ascontiguousarray(products.table_ID.numpy(), np.float32))
        self.recall: Recall = measure_recall(self, self._sample)

    @abstractmethod
    def _build(self, vectors_ID: np.ndarray) -> Any:
        """Return a faiss index that holds the vectors."""

    @abstractmethod
    def _parameters(self, selector: Any) -> Any:
        """Return how to search among what a selector lets pass; None lets everything pass."""

    def search(self, asked: Asked, k: int, allowed: Allowed | None = None) -> Candidates:
        """Search; among few items, and where too few are found, exactly."""
        if allowed is not None and allowed.is_narrow:
            return search_exactly(self.products, asked, k, allowed)
        if len(asked.queries_BD) >= self._batch:
            return search_exactly(self.products, asked, k, allowed)
        self._threads()
        deepest = max((len(own) for own in asked.without), default=0)
        left = self.products.num_items if allowed is None else len(allowed.columns)
        wanted = min(k + deepest, left)
        selector = None if allowed is None else self._faiss.IDSelectorBitmap(allowed.bits)
        queries = np.ascontiguousarray(asked.queries_BD.numpy(), np.float32)
        _, columns_BW = self._index.search(queries, max(wanted, 1), params=self._parameters(selector))
        found = self._rescored(asked, columns_BW, k)
        short = (found.scores_BK == -torch.inf).any() and (
            columns_BW < 0
        ).any()  # cells that were looked into held less
        return search_exactly(self.products, asked, k, allowed) if short else found

    def _rescored(self, asked: Asked, columns_BW: np.ndarray, k: int) -> Candidates:
        columns = torch.from_numpy(columns_BW)
        vectors_BWD = self.products.table_ID[columns.clamp(min=0)]
        scores_BW = torch.einsum("bd,bwd->bw", asked.queries_BD, vectors_BWD).masked_fill(columns < 0, -torch.inf)
        for row, own in enumerate(asked.without):
            if len(own):
                scores_BW[row, torch.from_numpy(np.isin(columns_BW[row] + FIRST_ITEM, own))] = -torch.inf
        by_column = columns.argsort(dim=1)
        order = by_column.gather(1, scores_BW.gather(1, by_column).argsort(dim=1, descending=True, stable=True))[:, :k]
        scores_BK = scores_BW.gather(1, order)
        return Candidates(torch.where(scores_BK > -torch.inf, columns.gather(1, order) + FIRST_ITEM, PAD), scores_BK)

    def _threads(self) -> None:
        """Work with torch's threads: faiss counts its own, by thread, and takes all cores unless told."""
        self._faiss.omp_set_num_threads(torch.get_num_threads())

    def describe(self) -> dict[str, Any]:
        """Tell what was measured."""
        return {"kind": self.config.kind, "items": self.products.num_items, "recall": self.recall.describe()}


class Flat16(_Faiss):
    """All vectors in half precision: half the memory to read, and that is what a search waits for."""

    class Config(FrozenConfig):
        """Half precision has no settings."""

        kind: Literal["flat16"] = "flat16"

    _batch = 4  # from there on a matrix product in full precision reads no more memory, and is better made

    def _build(self, vectors_ID: np.ndarray) -> Any:
        faiss = self._faiss
        index = faiss.IndexScalarQuantizer(
            vectors_ID.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        index.add(vectors_ID)
        return index

    def _parameters(self, selector: Any) -> Any:
        return None if selector is None else self._faiss.SearchParameters(sel=selector)


class Approximate(_Faiss):
    """Vectors in cells around means; only the cells that are nearest to a query are looked into."""

    class Config(FrozenConfig):
        """How many cells there are, and how many are looked into."""

        kind: Literal["approximate"] = "approximate"
        cells: int | None = Field(None, ge=1)
        """Number of cells; null takes twice the square root of the number of items."""
        probes: int = Field(64, ge=1)
        """Cells that a search looks into: more find more, and take longer."""

    def __init__(self, config: Config, products: Products, sample: Callable[[], Tensor]) -> None:
        self.probes = config.probes
        super().__init__(config, products, sample)

    def look_further(self) -> bool:
        """Look into twice as many cells from now on; not beyond an eighth of them, where a search of all is as fast."""
        if 8 * 2 * self.probes > self._index.nlist:
            return False
        self.probes *= 2
        self.recall = measure_recall(self, self._sample)
        return True

    def _build(self, vectors_ID: np.ndarray) -> Any:
        faiss, width = self._faiss, vectors_ID.shape[1]
        cells = min(self.config.cells or int(2 * len(vectors_ID) ** 0.5), len(vectors_ID))
        means = faiss.IndexFlatIP(width)
        kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFScalarQuantizer(means, width, cells, kind, metric, False)
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 10, 64, 1
        index.train(vectors_ID)
        index.add(vectors_ID)
        self._means = means  # faiss does not keep it alive
        return index

    def _parameters(self, selector: Any) -> Any:
        return self._faiss.SearchParametersIVF(sel=selector, nprobe=self.probes)

    def describe(self) -> dict[str, Any]:
        """Tell what was measured, and into how many cells a search looks."""
        return {**super().describe(), "cells": self._index.nlist, "probes": self.probes}
