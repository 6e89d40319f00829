"""Popularity: the same list for everybody."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.batches import Queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.evaluation.baselines.baseline import Baseline, popularity_scores


class PopularityScorer:
    """Most training events first, ties by vocabulary order; a score is minus the place in this list."""

    def __init__(self, popularity_V: np.ndarray) -> None:
        """Take the training events of each item as `Catalog.popularity` gives them."""
        self.scores_I = torch.from_numpy(popularity_scores(popularity_V))
        self.num_items = len(self.scores_I)

    def ask(self, queries: Queries) -> Tensor:
        """Return a column [B, 1] of zeros: of the queries nothing matters but how many and where they are."""
        return torch.zeros(len(queries.anchor_B), 1, device=queries.anchor_B.device)

    def block(self, asked: Tensor, start: int, stop: int) -> Tensor:
        """Return fresh scores [B, stop - start], the same in every row."""
        return asked + self.scores_I[start:stop].to(asked.device)


class Popularity(Baseline):
    """What most people had. A recommender that does not beat it has learnt nothing about persons."""

    class Config(FrozenConfig):
        """Popularity has no settings."""

        kind: Literal["popularity"] = "popularity"

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, dataset: Dataset, reader: ShardReader) -> PopularityScorer:
        """Read the counts that the catalog holds."""
        return PopularityScorer(dataset.catalog.popularity)
