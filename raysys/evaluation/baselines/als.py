"""ALS: weighted matrix factorisation for implicit feedback (Hu, Koren & Volinsky, ICDM 2008), by implicit."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none
import torch
from pydantic import Field
from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.batches import Queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.errors import UserError
from raysys.evaluation.baselines.baseline import Baseline, popularity_scores, query_profiles, training_profiles


@dataclass(frozen=True)
class FoldedIn:
    """Factors of the users of a batch, and who of them has no profile."""

    factors_BD: Tensor
    cold_B1: Tensor  # bool


class AlsScorer:
    """score = factors of the user x factors of the item; users without a profile get the popular items."""

    def __init__(self, model: Any, popularity_V: np.ndarray) -> None:
        """Take implicit's fitted model, and the training events of each item as `Catalog.popularity` gives them."""
        self.model = model
        self.items_ID = torch.from_numpy(model.item_factors)
        self.rest_I = torch.from_numpy(popularity_scores(popularity_V))
        self.num_items = len(self.rest_I)

    def ask(self, queries: Queries) -> FoldedIn:
        """Solve for the users of a batch: x = (Y'Y + Y'(C - 1)Y + regularization)^-1 Y'C p (equation 4)."""
        profiles_BI = scipy.sparse.csr_matrix(query_profiles(queries, self.num_items))
        factors_BD = torch.from_numpy(self.model.recalculate_user(np.arange(profiles_BI.shape[0]), profiles_BI))
        cold_B1 = torch.from_numpy(np.diff(profiles_BI.indptr) == 0).unsqueeze(1)
        device = queries.anchor_B.device
        return FoldedIn(factors_BD.to(device), cold_B1.to(device))

    def block(self, asked: FoldedIn, start: int, stop: int) -> Tensor:
        """Return fresh scores [B, stop - start]."""
        items_vD, rest_v = (whole[start:stop].to(asked.factors_BD.device) for whole in (self.items_ID, self.rest_I))
        return torch.where(asked.cold_B1, rest_v, asked.factors_BD @ items_vD.T)


class ALS(Baseline):
    """Alternating least squares: every item that a user did not have is a weak no, each that he had a strong yes."""

    class Config(FrozenConfig):
        """Size and weights of the factorisation. It needs `pip install 'raysys[als]'`."""

        kind: Literal["als"] = "als"
        factors: int = Field(128, ge=1)
        """Width of the vectors."""
        regularization: float = Field(1.0, gt=0)
        """Added to the diagonal of every system that is solved."""
        alpha: float = Field(10.0, gt=0)
        """Weight of an item that the user had; one that he did not have weighs 1."""
        iterations: int = Field(15, ge=1)
        """Rounds over all users and all items."""
        seed: int = Field(0, ge=0, lt=1 << 32)
        """Other seeds start from other vectors."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, dataset: Dataset, reader: ShardReader) -> AlsScorer:
        """Factorise the training profiles on one thread, so that a seed gives one model.

        Raises:
            UserError: implicit is not installed.
        """
        try:
            from implicit.cpu.als import AlternatingLeastSquares
            from threadpoolctl import threadpool_limits  # implicit needs it too
        except ImportError:
            raise UserError(
                "evaluation.baselines: als needs the library implicit, which is not installed; "
                "run `pip install 'raysys[als]'` or leave als out"
            ) from None
        config, had_UI = self.config, scipy.sparse.csr_matrix(training_profiles(dataset, reader))
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=config.factors,
                regularization=config.regularization,
                alpha=config.alpha,
                iterations=config.iterations,
                num_threads=1,
                random_state=config.seed,
            )
            model.fit(had_UI, show_progress=False)
        return AlsScorer(model, dataset.catalog.popularity)
