"""What an evaluation needs beside the model: the data, its config, the baselines, facts about items."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from raysys.component import kind_of
from raysys.data.dataset import Dataset
from raysys.data.hashing import hash_ids
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.evaluation.baselines import BASELINES
from raysys.evaluation.baselines.popularity import Popularity
from raysys.evaluation.beyond import ItemFacts
from raysys.evaluation.protocol import EvaluationConfig
from raysys.evaluation.ranking import Scorer
from raysys.evaluation.summary import POPULARITY


@dataclass(frozen=True)
class Judge:
    """Everything an evaluation needs beside the model."""

    dataset: Dataset
    reader: ShardReader
    config: EvaluationConfig
    max_length: int
    device: torch.device

    @staticmethod
    def of(dataset: Dataset, config: EvaluationConfig, max_length: int, device: torch.device | None = None) -> "Judge":
        """Open the shards of a dataset for evaluation."""
        return Judge(dataset, ShardReader(dataset, columns=True), config, max_length, device or torch.device("cpu"))

    def rows(self, split: Split) -> np.ndarray:
        """Return the rows to evaluate [U] i64, ascending: users of the split, at most `max_users` of them.

        A sample is chosen by a hash of the user ids alone, so it is the same for every model, epoch and rank, and part
        of any larger one.
        """
        return self._sample(self.dataset.rows_with_targets(split))

    def rows_with_history(self, split: Split) -> np.ndarray:
        """Return the rows with tokens before the end of a split [U] i64, ascending; a like sample."""
        before = np.flatnonzero(self.lengths(split) > 0)
        return self._sample(np.union1d(before, self.dataset.rows_with_targets(split)))

    def parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Cut rows into as many as are evaluated at a time."""
        size = self.config.batch_size
        return [rows[at : at + size] for at in range(0, len(rows), size)]

    def _sample(self, rows: np.ndarray) -> np.ndarray:
        if self.config.max_users is None or len(rows) <= self.config.max_users:
            return rows
        order = np.argsort(hash_ids(self.reader.user_ids(rows)), kind="stable")
        return np.sort(rows[order[: self.config.max_users]])

    def lengths(self, split: Split) -> np.ndarray:
        """Return how many training and, before the test split, validation tokens every user of the dataset has [U]."""
        rows = self.dataset.rows
        train_U: np.ndarray = rows["train_tokens"].to_numpy()
        return train_U + rows["valid_tokens"].to_numpy() if split > Split.VALID else train_U

    @cached_property
    def baselines(self) -> dict[str, Scorer]:
        """The baselines of the config, fitted once; popularity first."""
        configs = {POPULARITY: Popularity.Config(), **self.config.baselines}
        fitted = {name: BASELINES[kind_of(config)](config) for name, config in configs.items()}
        return {name: baseline.fit(self.dataset, self.reader) for name, baseline in fitted.items()}

    @cached_property
    def facts(self) -> ItemFacts:
        """What the catalog knows of every item."""
        return ItemFacts.of(self.dataset.catalog)
