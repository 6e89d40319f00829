"""LightGCN: user and item vectors propagated over the graph of who had what (He et al., 2020, arXiv 2002.02126)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raysys.data.batches import History
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.per_user import PerUser, PerUserConfig
from raysys.model.items.encoder import ItemVectors


@dataclass(frozen=True)
class Propagated:
    """Vectors after propagation: means over the layers. The vectors of items that states are compared with."""

    items_VD: Tensor  # [V - 2, D]
    users_UD: Tensor
    tokens_VD: Tensor  # [V - 2, D], what an item adds to the state of a user outside the graph, before his own norm
    average_D: Tensor

    def __call__(self, items: Tensor) -> Tensor:
        """Return f32[*, D] for i64[*]."""
        return F.embedding((items - FIRST_ITEM).clamp(min=0), self.items_VD)

    def table(self) -> Tensor:
        """Return the vectors of all real items [V - 2, D]."""
        return self.items_VD


class LightGCN(PerUser[Propagated]):
    """Neighbours' vectors are added up, nothing else is learned.

    A user outside the graph is what the same sums give for his tokens, without a vector of his own.
    """

    class Config(PerUserConfig):
        """LightGCN's depth."""

        kind: Literal["lightgcn"] = "lightgcn"
        num_layers: int = Field(3, ge=1)
        """How many times vectors go to their neighbours."""

    def __init__(self, config: Config, context: ModelContext) -> None:
        super().__init__(config, context)
        self.num_layers = config.num_layers
        self.graph = Graph(context.num_users)

    def observe(self, dataset: Dataset) -> None:
        """Take the graph of the training period."""
        super().observe(dataset)
        self.graph.observe(dataset)

    def vectors(self, items: ItemVectors) -> ItemVectors:
        """Propagate, once for a whole pass."""
        return self.keep(lambda: self._propagate(items.table()))

    def own(self, vectors: ItemVectors) -> Tensor:
        """Return the users' propagated vectors."""
        return _propagated(vectors).users_UD

    def estimate(self, history: History, vectors: ItemVectors) -> Tensor:
        """Add up the tokens so far, each item once."""
        known = _propagated(vectors)
        items_BL = history.items_BL
        earlier_LL = torch.ones(items_BL.shape[1], items_BL.shape[1], dtype=torch.bool, device=items_BL.device).tril(-1)
        again_BL = ((items_BL.unsqueeze(2) == items_BL.unsqueeze(1)) & earlier_LL).any(2)
        fresh_BL1 = (history.mask_BL & ~again_BL).unsqueeze(-1)
        added_BLD = F.embedding((items_BL - FIRST_ITEM).clamp(min=0), known.tokens_VD) * fresh_BL1
        count_BL1 = fresh_BL1.sum(-1, keepdim=True).cumsum(1)
        return torch.where(count_BL1 > 0, added_BLD.cumsum(1) * count_BL1.clamp(min=1).rsqrt(), known.average_D)

    def _propagate(self, items_VD: Tensor) -> Propagated:
        users_UD = self.users.weight
        sum_UD, sum_VD = users_UD, items_VD
        for _ in range(self.num_layers):
            before_VD = sum_VD  # without the last layer: its neighbours would be one layer further
            users_UD, items_VD = self.graph(users_UD, items_VD)
            sum_UD, sum_VD = sum_UD + users_UD, sum_VD + items_VD
        share = 1 / (self.num_layers + 1)
        trained_U = self.users.trained_U
        average_D = share * (sum_UD * trained_U.unsqueeze(1)).sum(0) / trained_U.sum().clamp(min=1)
        tokens_VD = share * before_VD * self.graph.item_norms().unsqueeze(1)
        return Propagated(share * sum_VD, share * sum_UD, tokens_VD, average_D)


class Graph(nn.Module):
    """Who had what in training, as neighbours of every user and of every item. Part of the weights of a run."""

    items_E: Tensor  # i32, item - FIRST_ITEM, user by user
    ends_U: Tensor  # i32, where each user's begin; [U + 1]
    users_E: Tensor  # i32, item by item
    ends_V: Tensor  # i32, where each item's begin; [V - 1]

    def __init__(self, num_users: int) -> None:
        super().__init__()
        nothing = torch.zeros(0, dtype=torch.int32)
        self.register_buffer("items_E", nothing)
        self.register_buffer("ends_U", torch.zeros(num_users + 1, dtype=torch.int32))
        self.register_buffer("users_E", nothing.clone())
        self.register_buffer("ends_V", torch.zeros(1, dtype=torch.int32))

    def observe(self, dataset: Dataset) -> None:
        """Take the history events of the training period; an item that a user had twice counts once."""
        reader = ShardReader(dataset)
        rows = reader.rows(np.arange(dataset.manifest.num_users))
        owners = np.repeat(rows.users, np.diff(rows.offsets))
        chosen = (rows.marks == Split.TRAIN) & reader.is_history[rows.events] & (rows.items >= FIRST_ITEM)
        num_items = dataset.manifest.num_items
        pairs = np.unique(owners[chosen] * num_items + rows.items[chosen] - FIRST_ITEM)
        users, items = np.divmod(pairs, num_items)
        by_item = np.argsort(items, kind="stable")
        place = self.items_E.device
        self.items_E, self.users_E = _int32(items, place), _int32(users[by_item], place)
        self.ends_U = _int32(np.searchsorted(users, np.arange(dataset.manifest.num_users + 1)), place)
        self.ends_V = _int32(np.searchsorted(items[by_item], np.arange(num_items + 1)), place)

    def forward(self, users_UD: Tensor, items_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised sums of neighbours, of users [U, D] and items [V - 2, D] (equation 3)."""
        found: tuple[Tensor, Tensor] = _Neighbours.apply(users_UD, items_VD, self)  # type: ignore[no-untyped-call]
        return found

    def sums(self, users_UD: Tensor, items_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same without gradient."""
        if not len(self.items_E):
            return torch.zeros_like(users_UD), torch.zeros_like(items_VD)
        norms_U1, norms_V1 = _norms(self.ends_U).unsqueeze(1), self.item_norms().unsqueeze(1)
        sums_UD = F.embedding_bag(self.items_E, items_VD * norms_V1, self.ends_U[:-1], mode="sum")
        sums_VD = F.embedding_bag(self.users_E, users_UD * norms_U1, self.ends_V[:-1], mode="sum")
        return sums_UD * norms_U1, sums_VD * norms_V1

    def item_norms(self) -> Tensor:
        """Return 1 / sqrt(neighbours) of every item [V - 2]; [1] where there is no graph."""
        return _norms(self.ends_V) if len(self.items_E) else torch.ones(1, device=self.items_E.device)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, own in self.named_buffers():  # the size of a graph is only known from what is loaded
            setattr(self, name, torch.empty_like(state_dict.get(prefix + name, own), device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Neighbours(torch.autograd.Function):
    """The graph is symmetric, so its own product with the gradients is the gradient."""

    @staticmethod
    def forward(ctx: Any, users_UD: Tensor, items_VD: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        ctx.graph = graph
        return graph.sums(users_UD, items_VD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.graph.sums(*grads), None


def _norms(ends_N: Tensor) -> Tensor:
    return ends_N.diff().clamp(min=1).rsqrt()


def _int32(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int32)).to(device)


def _propagated(vectors: ItemVectors) -> Propagated:
    assert isinstance(vectors, Propagated), "the states of LightGCN belong to its own vectors"
    return vectors
