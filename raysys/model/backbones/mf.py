"""MF: matrix factorisation, a vector per user and one per item (Rendle et al., 2009, arXiv 1205.2618, section 5.1)."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from raysys.data.batches import History
from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.per_user import PerUser, PerUserConfig
from raysys.model.items.encoder import ItemVectors


@dataclass(frozen=True)
class Tastes:
    """What users are like: the prior of one whom training did not meet."""

    mean_D: Tensor
    covariance_DD: Tensor


class MF(PerUser[Tastes]):
    """The order of events plays no part for users whom training met.

    A new user's vector is the posterior mean of a Gaussian whose prior has the mean and covariance of the trained
    users' vectors, given that every token's score lies a number of standard deviations above the mean (Rasmussen and
    Williams, 2006, "Gaussian Processes for Machine Learning", equation 2.25): a ridge fold-in, as that of Hu et al.
    (2008, equation 4), which weighs directions by how much users differ along them.
    """

    class Config(PerUserConfig):
        """How new users are met."""

        kind: Literal["mf"] = "mf"
        noise: float = Field(1.0, gt=0)
        """Variance of what one token says about a new user, in variances of its score over users; the larger, the
        more tokens it takes to leave the average user."""
        surprise: float = Field(4.0, gt=0)
        """By how many standard deviations a token's score lies above its mean over users."""

    def __init__(self, config: Config, context: ModelContext) -> None:
        super().__init__(config, context)
        self.noise, self.surprise = config.noise, config.surprise

    def own(self, vectors: ItemVectors) -> Tensor:
        """Return the users' vectors."""
        return self.users.weight

    def estimate(self, history: History, vectors: ItemVectors) -> Tensor:
        """Fold tokens in. One Cholesky factor serves all positions: its first t rows are the factor of t tokens."""
        tastes = self.keep(self._tastes)
        tokens_BLD = vectors(history.items_BL)
        scaled_BLD = tokens_BLD @ tastes.covariance_DD
        deviation_BL = (scaled_BLD * tokens_BLD).sum(-1).clamp(min=1e-12).sqrt()
        weight_BL1 = (history.mask_BL / deviation_BL).unsqueeze(-1)
        tokens_BLD, scaled_BLD = tokens_BLD * weight_BL1, scaled_BLD * weight_BL1
        noise_LL = self.noise * torch.eye(tokens_BLD.shape[1], device=tokens_BLD.device)
        factor_BLL = torch.linalg.cholesky(scaled_BLD @ tokens_BLD.transpose(1, 2) + noise_LL)
        found_BL1 = self.surprise * history.mask_BL.unsqueeze(-1).to(tokens_BLD.dtype)
        steps = torch.linalg.solve_triangular(factor_BLL, torch.cat([scaled_BLD, found_BL1], -1), upper=False)
        return tastes.mean_D + (steps[..., :-1] * steps[..., -1:]).cumsum(1)

    def _tastes(self) -> Tastes:
        users_UD = self.users.weight[self.users.trained_U]
        mean_D = users_UD.sum(0) / max(len(users_UD), 1)
        apart_UD = users_UD - mean_D
        return Tastes(mean_D, apart_UD.T @ apart_UD / max(len(users_UD), 1))
