"""UserKNN: what people with a similar past had (Herlocker et al., SIGIR 1999, for ones and zeros)."""

from typing import Literal

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none
from pydantic import Field

from raysys.component import FrozenConfig
from raysys.data.batches import Queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.evaluation.baselines.baseline import Baseline, VoteScorer, nearest, query_profiles, training_profiles


class UserKnnScorer(VoteScorer):
    """The nearest training users vote for what they had, with their similarity to the query's profile."""

    def __init__(self, had_IU: "scipy.sparse.csr_array", popularity_V: np.ndarray, neighbours: int) -> None:
        """Take which training user had which item [I, U], and how many neighbours vote."""
        super().__init__(had_IU, popularity_V)
        self.neighbours = neighbours

    def weights(self, queries: Queries) -> "scipy.sparse.csr_array":
        """Return the cosines [B, U] between profiles and their nearest training users.

        A user's own row is left out: it is the nearest of all, and votes for nothing but what the user had already.
        """
        profiles_BI = query_profiles(queries, self.num_items)
        own_B = queries.history.users_B.cpu().numpy()
        return nearest(profiles_BI, self.votes_IS, own_B, self.neighbours)


class UserKNN(Baseline):
    """score of an item = sum of the similarities of the nearest training users who had it.

    Similarity is the cosine of profiles, ones and zeros: items that both had / sqrt(items of one x items of the other).
    """

    class Config(FrozenConfig):
        """Neighbours of a user."""

        kind: Literal["userknn"] = "userknn"
        neighbours: int = Field(200, ge=1)
        """Training users who vote."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, dataset: Dataset, reader: ShardReader) -> UserKnnScorer:
        """Keep the training profiles by item; comparing is done per batch of queries."""
        had_IU = training_profiles(dataset, reader).T.tocsr()
        return UserKnnScorer(had_IU, dataset.catalog.popularity, self.config.neighbours)
