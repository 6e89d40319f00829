"""What the backbones with a vector for every user have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import History
from raysys.data.dataset import Dataset
from raysys.model.backbones.backbone import Backbone, ModelContext
from raysys.model.dropout import Dropout
from raysys.model.items.encoder import ItemVectors
from raysys.model.lookup import look_up

Kept = TypeVar("Kept")


class PerUserConfig(FrozenConfig):
    """How users begin."""

    init_std: float = Field(0.02, gt=0)
    """Standard deviation of the vectors at the start; the smaller, the nearer a rare user stays to the average one."""


class UserEmbedding(nn.Embedding):
    """One learned vector per row of the dataset, and which of them have been trained."""

    trained_U: Tensor

    def __init__(self, num_users: int, width: int, init_std: float = 0.02) -> None:
        super().__init__(num_users, width)
        nn.init.normal_(self.weight, std=init_std)
        self.register_buffer("trained_U", torch.zeros(num_users, dtype=torch.bool))

    def observe(self, dataset: Dataset) -> None:
        """Note who takes part in training: a user of later days has a row too, but nothing that was learned."""
        self.trained_U.copy_(torch.from_numpy(dataset.rows["train_events"].to_numpy() > 0))

    def known(self, users_B: Tensor) -> Tensor:
        """Return whose vector has been trained, bool [B]."""
        return (users_B >= 0) & self.trained_U[users_B.clamp(min=0)]


class PerUser(Backbone, Generic[Kept]):
    """The state of a user whom training met is his own, at every position; that of others is estimated from tokens."""

    per_user = True

    def __init__(self, config: PerUserConfig, context: ModelContext) -> None:
        super().__init__(config, context)
        self.users = UserEmbedding(context.num_users, context.width, config.init_std)
        self.dropout = Dropout(context.dropout)
        self._kept: Kept | None = None

    def observe(self, dataset: Dataset) -> None:
        """Note who takes part in training."""
        self.users.observe(dataset)

    @abstractmethod
    def own(self, vectors: ItemVectors) -> Tensor:
        """Return the states of all users [U, D]."""

    @abstractmethod
    def estimate(self, history: History, vectors: ItemVectors) -> Tensor:
        """Return states [B, L, D] of users of whom nothing is known but tokens 0..t; with none, an average user's."""

    def forward(self, history: History, vectors: ItemVectors) -> Tensor:
        """Look known users up, estimate the others."""
        return self.with_start(history, vectors)[0]

    def with_start(self, history: History, vectors: ItemVectors) -> tuple[Tensor, Tensor]:
        """Return the states, and those before the first token [B, D]: users are looked up once for both."""
        own_BD = self.dropout(look_up(history.users_B.clamp(min=0), self.own(vectors)))
        own_BLD = own_BD.unsqueeze(1).expand(-1, history.items_BL.shape[1], -1)
        start_BD = own_BD.view_as(own_BD)  # of its own, so that its gradient is not that of the states as well
        if self.training or self.users.known(history.users_B).all():  # who trains is known
            return own_BLD, start_BD
        nothing = history.items_BL.new_zeros(len(own_BD), 1)
        empty = History(nothing, nothing, nothing, nothing.bool(), history.users_B)
        known_B11 = self.users.known(history.users_B)[:, None, None]
        states_BLD = torch.where(known_B11, own_BLD, self.estimate(history, vectors))
        return states_BLD, torch.where(known_B11[:, 0], start_BD, self.estimate(empty, vectors)[:, 0])

    def keep(self, make: Callable[[], Kept]) -> Kept:
        """Return what `make` does; without gradients what it did before, until weights may have changed.

        They may between evaluations. That they have cannot be seen: fused optimizers leave no mark on a tensor.
        """
        if self.training or torch.is_grad_enabled():
            return make()
        if self._kept is None:
            self._kept = make()
        return self._kept

    def train(self, mode: bool = True) -> Self:
        """Forget what is kept: every evaluation begins with `eval()`."""
        self._kept = None
        return super().train(mode)

    def _apply(self, *args: Any) -> Self:
        self._kept = None  # it stays on the device where it was made
        return super()._apply(*args)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any) -> None:
        self._kept = None
        super()._load_from_state_dict(*args)
