"""What point-wise tasks are told of pairs, the columns of a user kept once however many of the pairs are his.

Legend of shapes: N pairs, B users, U columns of users, P columns of pairs, E = P + U, H outputs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Told:
    """The rows [N, E] of pairs, for layers to multiply; the U columns of users are written only once a user."""

    pairs_NP: Tensor
    users_BU: Tensor | None = None  # of the users; None where all columns are of the pairs
    rows_N: Tensor | None = None  # i64, user of the pair among the B
    users_at: int = 0  # where the U columns begin among the E

    def through(self, weights_HE: Tensor, biases_H: Tensor) -> Tensor:
        """Return what a linear layer makes of the rows, [N, H]: what it makes of a user is computed once."""
        if self.users_BU is None or self.rows_N is None:
            return F.linear(self.pairs_NP, weights_HE, biases_H)
        before_HP, weights_HU, after_HP = weights_HE.tensor_split(
            (self.users_at, self.users_at + self.users_BU.shape[1]), dim=1
        )
        users_BH = F.linear(self.users_BU, weights_HU, biases_H)
        weights_HP = torch.cat([before_HP, after_HP], dim=1)
        return torch.addmm(users_BH.index_select(0, self.rows_N), self.pairs_NP, weights_HP.T)
