"""The contract of a baseline, and what the classical ones share: profiles, cosine neighbours, sums of similarities.

Legend of shapes: B queries, U users of the dataset, I real items (column i is item index FIRST_ITEM + i), S whatever
votes for items (items or users), v the items of one block.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none
import torch
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.batches import Queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.evaluation.ranking import Scorer

_USERS_AT_ONCE = 1 << 16  # users whose events are in memory while profiles are gathered
_PAIRS_AT_ONCE = 1 << 23  # similarities in memory at a time, some 40 bytes each until the largest are chosen


class Baseline(ABC):
    """A method that needs no training loop and stands beside a run in its report, under the same protocol.

    It learns from the training events of history kinds alone, as the popularity of the catalog does, and answers from
    what a query says that the user had, so that users whom training never saw are answered too.
    """

    Config: ClassVar[type[FrozenConfig]]

    @abstractmethod
    def __init__(self, config: FrozenConfig) -> None:
        """Take the settings."""

    @abstractmethod
    def fit(self, dataset: Dataset, reader: ShardReader) -> Scorer:
        """Learn from the training events of a dataset, whose shards the reader has mapped."""


def popularity_scores(popularity_V: np.ndarray) -> np.ndarray:
    """Return -1, -2, ... [I] f32 in the order of training events, ties in vocabulary order (exact to 2^24 items)."""
    counts_I = popularity_V[FIRST_ITEM:]
    scores_I = np.empty(len(counts_I), np.float32)
    scores_I[np.argsort(-counts_I, kind="stable")] = -np.arange(1, len(counts_I) + 1)
    return scores_I


def training_profiles(dataset: Dataset, reader: ShardReader) -> "scipy.sparse.csr_array":
    """Return which items each user had in training [U, I] f32, ones and zeros; events of history kinds alone."""
    num_users, num_items = dataset.manifest.num_users, dataset.manifest.num_items
    parts = [scipy.sparse.csr_array((0, num_items), dtype=np.float32)]
    for start in range(0, num_users, _USERS_AT_ONCE):
        rows = reader.rows(np.arange(start, min(start + _USERS_AT_ONCE, num_users)))
        owner_E = np.repeat(np.arange(len(rows.users)), np.diff(rows.offsets))
        learnt_E = (rows.marks == Split.TRAIN) & reader.is_history[rows.events]
        parts.append(_profiles(owner_E[learnt_E], rows.items[learnt_E], (len(rows.users), num_items)))
    return scipy.sparse.vstack(parts, format="csr")


def query_profiles(queries: Queries, num_items: int) -> "scipy.sparse.csr_array":
    """Return which items each query says that its user had [B, I] f32, ones and zeros."""
    rows_N, items_N = queries.seen_rows_N.cpu().numpy(), queries.seen_items_N.cpu().numpy()
    return _profiles(rows_N, items_N, (len(queries.anchor_B), num_items))


def nearest(
    left_RN: "scipy.sparse.csr_array",
    right_NC: "scipy.sparse.csr_array",
    own_R: np.ndarray,
    neighbours: int,
    shrinkage: float = 0.0,
) -> "scipy.sparse.csr_array":
    """Return the cosines [R, C] f32 between rows of ones and columns of ones, the largest of each row alone.

    cosine = shared / (sqrt(|row| |column|) + shrinkage). Column own_R of a row (-1 = none) is no neighbour of it. Of
    equal cosines the earlier columns are kept. Memory is bounded: rows are compared in blocks that can have a few
    million pairs that share something, but at least one row at a time.
    """
    size_R, size_C = np.sqrt(left_RN.sum(axis=1)), np.sqrt(right_NC.sum(axis=0))
    pairs_R = np.minimum(left_RN @ np.diff(right_NC.indptr), right_NC.shape[1])  # at most so many share something
    starts = np.flatnonzero(np.diff(np.cumsum(pairs_R) // _PAIRS_AT_ONCE, prepend=-1))
    parts = [scipy.sparse.csr_array((0, right_NC.shape[1]), dtype=np.float32)]
    for start, stop in pairwise([*starts, left_RN.shape[0]]):
        shared = left_RN[start:stop] @ right_NC
        row_N = start + np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        shared.data = shared.data / (size_R[row_N] * size_C[shared.indices] + np.float32(shrinkage))
        shared.data[shared.indices == own_R[row_N]] = 0
        parts.append(_largest(shared, neighbours))
    return scipy.sparse.vstack(parts, format="csr")


@dataclass(frozen=True)
class Votes:
    """What a batch of queries makes of those who vote: users or items."""

    weights_SB: "scipy.sparse.csr_array"
    device: torch.device


class VoteScorer(ABC):
    """score = sum over voters of weight x vote, never negative.

    Items that nobody votes for follow all others, the most popular first, so that short lists are filled and a user
    of whom nothing is known gets the popular items: there are no ties at zero.
    """

    def __init__(self, votes_IS: "scipy.sparse.csr_array", popularity_V: np.ndarray) -> None:
        """Take the votes, and the training events of each item as `Catalog.popularity` gives them."""
        self.votes_IS = votes_IS
        self.rest_I = popularity_scores(popularity_V)
        self.num_items = len(self.rest_I)

    @abstractmethod
    def weights(self, queries: Queries) -> "scipy.sparse.csr_array":
        """Return the weight of each voter for each query [B, S] f32."""

    def ask(self, queries: Queries) -> Votes:
        """Weigh the voters, once per batch."""
        return Votes(self.weights(queries).T.tocsr(), queries.anchor_B.device)

    def block(self, asked: Votes, start: int, stop: int) -> Tensor:
        """Return fresh scores [B, v] of items start..stop; each is summed in one order, whatever the block."""
        scores_Bv = (self.votes_IS[start:stop] @ asked.weights_SB).toarray().T
        filled_Bv = np.where(scores_Bv > 0, scores_Bv, self.rest_I[start:stop])
        return torch.from_numpy(np.ascontiguousarray(filled_Bv)).to(asked.device)


def _profiles(rows_N: np.ndarray, items_N: np.ndarray, shape: tuple[int, int]) -> "scipy.sparse.csr_array":
    known_N = items_N >= FIRST_ITEM
    places = (rows_N[known_N].astype(np.int32), (items_N[known_N] - FIRST_ITEM).astype(np.int32))
    profiles = scipy.sparse.coo_array((np.ones(len(places[0]), np.float32), places), shape).tocsr()
    profiles.data.fill(1)  # an item counts once, however often the user had it
    return profiles


def _largest(matrix: "scipy.sparse.csr_array", k: int) -> "scipy.sparse.csr_array":
    """Return the matrix with the k largest positive values of each row, of equal values the earlier columns."""
    # A positive f32 compares as its bits do: with the column below them a key is unique, and one partition decides.
    keys_N = matrix.data.astype(np.float32).view(np.int32).astype(np.int64) << 32 | (2**31 - 1 - matrix.indices)
    kept_N = matrix.data > 0
    for row in np.flatnonzero(np.diff(matrix.indptr) > k):
        own = slice(matrix.indptr[row], matrix.indptr[row + 1])
        kept_N[own] &= keys_N[own] >= np.partition(keys_N[own], -k)[-k]
    counts = np.concatenate([[0], np.cumsum(kept_N)])
    return scipy.sparse.csr_array((matrix.data[kept_N], matrix.indices[kept_N], counts[matrix.indptr]), matrix.shape)
