"""The contract of a backbone: tokens in, one state per position out."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import History
from raysys.data.dataset import Dataset
from raysys.data.quantiles import training_quantiles
from raysys.model.fields import NUM_QUANTILES
from raysys.model.items.encoder import ItemVectors
from raysys.model.tokens import TokenFields


@dataclass(frozen=True)
class ModelContext:
    """What a backbone may know of the model around it when it is built."""

    width: int
    """D: size of item vectors and states."""
    max_length: int
    """L: most tokens of a history."""
    dropout: float
    num_users: int
    """Users of the dataset that training sees."""
    token_fields: TokenFields | None = None
    """What tokens say beside their items."""


class Backbone(nn.Module):
    """Turns tokens into states. The state at position t may know tokens 0..t only (tested for every one)."""

    Config: ClassVar[type[FrozenConfig]]
    bidirectional: ClassVar[bool] = False
    """Whether states know later tokens too. Such a backbone learns from masked tokens only (`masked_item`)."""
    per_user: ClassVar[bool] = False
    """Whether it keeps a vector for every user of the dataset: then that is a known user's state, before his first
    token too, and the run carries the users' ids."""

    @abstractmethod
    def __init__(self, config: FrozenConfig, context: ModelContext) -> None:
        """Build the layers. Raises ValueError where the config does not fit the context."""
        super().__init__()
        self.token_fields = context.token_fields

    def observe(self, dataset: Dataset) -> None:
        """Take what is needed of the training period, for instance who had what. Called once."""
        if self.token_fields is not None:
            self.token_fields.observe(training_quantiles(dataset, NUM_QUANTILES))

    def vectors(self, items: ItemVectors) -> ItemVectors:
        """Return the item vectors that states are compared with: those of the item encoders, unless it refines them."""
        return items

    def tokens(self, history: History, vectors: ItemVectors) -> Tensor:
        """Return the vectors of the tokens [B, L, D]: those of items, scaled up, and those of further fields."""
        x_BLD = vectors(history.items_BL)
        x_BLD = x_BLD * x_BLD.shape[-1] ** 0.5
        return x_BLD if self.token_fields is None else x_BLD + self.token_fields(history)

    @abstractmethod
    def forward(self, history: History, vectors: ItemVectors) -> Tensor:
        """Return states [B, L, D]; what stands after the end of a history is of no meaning.

        `vectors` is what `vectors()` returned: tokens are looked up there.
        """
