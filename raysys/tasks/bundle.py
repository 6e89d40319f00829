"""Bundle: which item completes a basket, that is, what was consumed at one time."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raysys.data.batches import Batch
from raysys.data.reader import UserRows
from raysys.data.schema import Split
from raysys.data.times import Duration
from raysys.errors import UserError
from raysys.model.recommender import Encoded, places
from raysys.tasks.retrieval import Retrieval, RetrievalConfig
from raysys.tasks.task import TaskContext


class Bundle(Retrieval):
    """The mean of a basket's item vectors, turned by a matrix, asks for the next item of the basket.

    A basket is a set: the order in it does not matter (Zaheer et al., 2017, arXiv 1703.06114, theorem 2, with a linear
    map), and its items, unlike similar ones, go beside each other, which is why the mean is turned.
    """

    source = "items"

    class Config(RetrievalConfig):
        """How baskets are told apart."""

        kind: Literal["bundle"] = "bundle"
        within: Duration = Field("1h", validate_default=True)
        """Events of a user belong to one basket when each follows the one before it within this time."""
        temperature: float | None = Field(0.1, gt=0)
        """Scale queries to length 1 and divide their scores by this; null leaves them as they are."""

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context)
        if not context.has_times:
            raise UserError(f"tasks.{context.name}: the events have no times, so no baskets can be told apart")
        self.within = config.within
        self.turn = nn.Linear(context.width, context.width)
        nn.init.eye_(self.turn.weight)
        nn.init.zeros_(self.turn.bias)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with the targets that were added to a basket, and are not in it already."""
        targets, history = batch.targets, batch.history
        place_BC = targets.anchor_BC.clamp(min=0)
        soon_BC = targets.times_BC - history.times_BL.gather(1, place_BC) <= self.within
        added_BC = self.valid(targets) & (targets.anchor_BC >= 0) & soon_BC
        begins_BL = self._begins(history.times_BL)
        begin_BC1 = begins_BL.gather(1, place_BC).unsqueeze(-1)
        inside_BCL = (begins_BL.unsqueeze(1) == begin_BC1) & history.mask_BL.unsqueeze(1)
        again_BC = (inside_BCL & (history.items_BL.unsqueeze(1) == targets.items_BC.unsqueeze(-1))).any(-1)
        return replace(batch, targets=replace(targets, mask_BC=added_BC & ~again_BC))

    def query(self, encoded: Encoded, anchor_BC: Tensor, valid_BC: Tensor | None = None) -> Tensor:
        """Return queries of the baskets that end at positions; who has none yet asks with the start state."""
        history = encoded.history
        vectors_BLD = encoded.items(history.items_BL) * history.mask_BL.unsqueeze(-1)
        begins_BL = self._begins(history.times_BL)
        before_BLD = torch.cat([torch.zeros_like(vectors_BLD[:, :1]), vectors_BLD.cumsum(1)], dim=1)
        rows, anchors = places(anchor_BC, valid_BC)
        last = anchors.clamp(min=0)
        first = begins_BL[rows, last]
        sums = before_BLD[rows, last + 1] - before_BLD[rows, first]
        means = sums / (last + 1 - first).unsqueeze(-1)
        basket = torch.where((anchors >= 0).unsqueeze(-1), means, encoded.start_BD[rows])
        return self.scaled(self.turn(basket)) + encoded.nothing()

    def questions(self, rows: UserRows, split: Split) -> UserRows:
        """Ask, for every user, for the first item of the split that was added to a basket; later ones are set aside."""
        owner = np.repeat(np.arange(len(rows.users)), np.diff(rows.offsets))
        wanted = self.is_predicted.cpu().numpy()[rows.events] & (rows.marks <= split)
        at = np.flatnonzero(wanted)
        follows = np.zeros(len(at), bool)
        follows[1:] = (owner[at[1:]] == owner[at[:-1]]) & (rows.times[at[1:]] - rows.times[at[:-1]] <= self.within)
        asked = at[follows & (rows.marks[at] == split)]
        first = np.full(len(rows.users), len(rows.items), np.int64)
        np.minimum.at(first, owner[asked], asked)
        position = np.arange(len(rows.items))
        marks = np.full(len(rows.items), Split.NONE, np.int8)
        marks[position < first[owner]] = split - 1
        marks[position == first[owner]] = split
        marks[(rows.marks > split) | (first[owner] == len(rows.items))] = Split.NONE
        return replace(rows, marks=marks)

    def _begins(self, times_BL: Tensor) -> Tensor:
        """Return where the basket of every position begins, i64 [B, L]: it names the basket."""
        places_L = torch.arange(times_BL.shape[1], device=times_BL.device)
        is_first_BL = F.pad(times_BL.diff(dim=1) > self.within, (1, 0), value=True)
        return torch.where(is_first_BL, places_L, 0).cummax(1).values
