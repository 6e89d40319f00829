"""Masked item: which items were hidden in a history (Sun et al., 2019, arXiv 1904.06690: the Cloze task)."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raysys.data.batches import Batch, History, Targets
from raysys.data.schema import UNKNOWN
from raysys.errors import UserError, nearest
from raysys.tasks.draws import draw_uniform, every_place
from raysys.tasks.retrieval import Retrieval, RetrievalConfig
from raysys.tasks.task import TaskContext

_HIDDEN, _NEWEST = 16, 17  # streams of draws; those of the losses come first


class MaskedItem(Retrieval):
    """Retrieval by a backbone that looks both ways.

    A hidden token has the index UNKNOWN, which no history contains, so its row of the item table is the vector of the
    mask. What is asked after a history is what a hidden token behind its end was.
    """

    anchored = False

    class Config(RetrievalConfig):
        """Hide tokens and predict them from all the others."""

        kind: Literal["masked_item"] = "masked_item"
        mask_share: float = Field(0.2, gt=0, le=1)
        """Share of the tokens that is hidden; of every user at least one."""
        last_share: float = Field(0.1, ge=0, le=1)
        """Share of the users of whom only the newest token is hidden, as when they are asked what comes next."""

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context)
        for name in config.events:
            if name not in context.history:
                raise UserError(
                    f"tasks.{context.name}.events: {name!r} is no history event, so it is no token that could be "
                    f"hidden{nearest(name, context.history)} (history: {', '.join(context.history)})"
                )
        self.mask_share, self.last_share = config.mask_share, config.last_share

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with hidden tokens, which are its targets, each at its own position.

        Only targets of the batch are ever hidden, which are tokens already but for the newest of each user: it is put
        behind the history. So all draws go by the number of a token within its window.
        """
        history, trained_BL = self._with_newest(batch)
        hidden_BL = self._hidden(history.users_B, trained_BL, batch.key)
        places_L = torch.arange(hidden_BL.shape[1], device=hidden_BL.device)
        targets = Targets(
            history.items_BL, places_L.expand_as(hidden_BL), history.events_BL, history.times_BL, hidden_BL, {}
        )
        items_BL = history.items_BL.masked_fill(hidden_BL, UNKNOWN)
        return Batch(replace(history, items_BL=items_BL), targets, batch.key)

    def ask(self, history: History, anchor_B: Tensor) -> tuple[History, Tensor]:
        """Put a mask behind the token of the anchor, and ask there; later tokens are not seen."""
        place_B1 = anchor_B.unsqueeze(1) + 1
        longer = _longer(history)
        now_BL1 = longer.times_BL.gather(1, anchor_B.clamp(min=0).unsqueeze(1))
        asking = History(
            longer.items_BL.scatter(1, place_B1, UNKNOWN),
            longer.events_BL,
            longer.times_BL.scatter(1, place_B1, now_BL1),
            torch.arange(longer.mask_BL.shape[1], device=anchor_B.device) <= place_B1,
            history.users_B,
        )
        return asking, anchor_B + 1

    def _with_newest(self, batch: Batch) -> tuple[History, Tensor]:
        """Return histories with every target among the tokens, and which tokens are targets, bool [B, L + 1]."""
        targets, valid_BC = batch.targets, self.valid(batch.targets)
        history = _longer(batch.history)
        place = (valid_BC.nonzero(as_tuple=True)[0], targets.anchor_BC[valid_BC] + 1)
        trained_BL = torch.zeros_like(history.mask_BL)
        trained_BL[place] = True
        history.items_BL[place] = targets.items_BC[valid_BC]
        history.events_BL[place] = targets.events_BC[valid_BC]
        history.times_BL[place] = targets.times_BC[valid_BC]
        return replace(history, mask_BL=history.mask_BL | trained_BL), trained_BL

    def _hidden(self, users_B: Tensor, trained_BL: Tensor, key: int) -> Tensor:
        """Draw which tokens are hidden, bool [B, L]."""
        places_L = torch.arange(trained_BL.shape[1], device=users_B.device)
        draws_BL = draw_uniform(key, *every_place(users_B, len(places_L)), 1, _HIDDEN).view(trained_BL.shape)
        draws_BL = draws_BL.masked_fill(~trained_BL, torch.inf)
        hidden_BL = (draws_BL < self.mask_share) | (draws_BL == draws_BL.amin(1, keepdim=True))
        newest_B1 = torch.where(trained_BL, places_L, -1).amax(1, keepdim=True)
        only_newest_B1 = draw_uniform(key, users_B, torch.zeros_like(users_B), 1, _NEWEST) < self.last_share
        return torch.where(only_newest_B1, places_L == newest_B1, hidden_BL) & trained_BL


def _longer(history: History) -> History:
    """Return a copy with room for one token more."""
    columns = (history.items_BL, history.events_BL, history.times_BL, history.mask_BL)
    items_BL, events_BL, times_BL, mask_BL = (F.pad(column, (0, 1)) for column in columns)
    return History(items_BL, events_BL, times_BL, mask_BL, history.users_B)
