"""What the tasks of items that are consumed together have in common: pairs of near neighbours in histories."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raysys.data.batches import Batch
from raysys.data.schema import FIRST_ITEM
from raysys.model.recommender import Encoded
from raysys.tasks.draws import draw_below, every_place
from raysys.tasks.negatives import Asked
from raysys.tasks.retrieval import Retrieval, RetrievalConfig
from raysys.tasks.task import TaskContext

_PARTNERS = 18  # stream of draws
_BACKWARD = 19


class ItemPairsConfig(RetrievalConfig):
    """What every task of item pairs lets one choose."""

    window: int = Field(5, ge=1)
    """How many tokens before a target its partner may lie; which one is drawn anew in every step."""
    temperature: float | None = Field(0.1, gt=0)
    """Scale the vectors of asking items to length 1 and divide their scores by this; null leaves them as they are."""


class ItemPairs(Retrieval):
    """An item asks for the items that people consumed near it: products of item vectors, no state takes part."""

    source = "items"
    Config: ClassVar[type[ItemPairsConfig]]

    def __init__(self, config: ItemPairsConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.window = config.window

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with targets that have a partner: their anchors are one of the events just before them."""
        targets = batch.targets
        at = every_place(batch.history.users_B, targets.anchor_BC.shape[1])
        back_BC = draw_below(self.window, batch.key, *at, 1, _PARTNERS).view(targets.anchor_BC.shape)
        anchor_BC = torch.where(targets.anchor_BC >= 0, (targets.anchor_BC - back_BC).clamp(min=0), -1)
        same_BC = batch.history.items_BL.gather(1, anchor_BC.clamp(min=0)) == targets.items_BC
        mask_BC = self.valid(targets) & (anchor_BC >= 0) & ~same_BC
        return replace(batch, targets=replace(targets, anchor_BC=anchor_BC, mask_BC=mask_BC))

    def query(self, encoded: Encoded, anchor_BC: Tensor, valid_BC: Tensor | None = None) -> Tensor:
        """Return the vectors of the items at positions, scaled; who has no item yet asks with the start state."""
        return self.scaled(encoded.item_before(anchor_BC, valid_BC))

    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Compare both ways: either item of a pair asks for the other, and half of each counts."""
        targets = view.targets
        rows_N, places_N = self.valid(targets).nonzero(as_tuple=True)
        first_N = view.history.items_BL[rows_N, targets.anchor_BC[rows_N, places_N].clamp(min=0)]
        second_N = targets.items_BC[rows_N, places_N]
        users_N = view.history.users_B[rows_N]
        total = encoded.nothing()
        for asking_N, asked_N, key in ((first_N, second_N, view.key), (second_N, first_N, view.key ^ _BACKWARD)):
            queries_ND = self.scaled(encoded.items(asking_N))
            asked = Asked(queries_ND, asked_N - FIRST_ITEM, users_N, places_N, key)
            total = total + 0.5 * self.objective(asked, encoded.items)
        return total
