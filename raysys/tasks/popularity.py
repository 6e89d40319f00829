"""Popularity: how much an item will be asked for in the next period, foretold by its vector alone."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Batch, Targets
from raysys.data.dataset import Dataset
from raysys.data.demand import demand
from raysys.data.schema import FIRST_ITEM, Split
from raysys.data.times import Duration
from raysys.errors import UserError
from raysys.model.recommender import Encoded
from raysys.tasks.draws import draw_below, every_place
from raysys.tasks.task import Task, TaskContext

_DRAWN = 20  # stream of draws
_LARGEST = 12.0  # log of a demand: e^12 is 160,000 times the mean
_LABEL = "demand"


class Popularity(Task):
    """Poisson regression (McCullagh and Nelder, 1989, chapter 6) of an item's demand, in demands of the mean item.

    As scale and length of periods fall out, what is learned of the newest days of training is compared with the next
    period as it is. Items of text or features alone, which nobody has seen yet, get a demand too.
    """

    source = "items"
    demand_V: Tensor

    class Config(FrozenConfig):
        """What counts as demand."""

        kind: Literal["popularity"] = "popularity"
        window: Duration | None = Field("3d", validate_default=True)
        """The newest part of training whose demand is learned; null for all of it."""
        hidden: int = Field(32, ge=1)
        """Width of the tower's hidden layer."""

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context)
        if config.window is not None and not context.has_times:
            raise UserError(f"tasks.{context.name}.window: the events have no times; set window: null")
        self.window = config.window
        self.tower = nn.Sequential(nn.Linear(context.width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))
        self.register_buffer("demand_V", torch.zeros(context.vocabulary_size), persistent=False)

    @property
    def reads_labels(self) -> Collection[str]:
        """None: what is foretold is counted."""
        return ()

    def observe(self, dataset: Dataset) -> None:
        """Take the demand of the newest part of training."""
        self.demand_V.copy_(torch.from_numpy(demand(dataset, Split.TRAIN, self.window)))

    def prepare(self, batch: Batch) -> Batch:
        """Return items drawn evenly from the catalogue in the places of the targets."""
        targets = batch.targets
        at = every_place(batch.history.users_B, targets.mask_BC.shape[1])
        drawn_N = draw_below(len(self.demand_V) - FIRST_ITEM, batch.key, *at, 1, _DRAWN)
        items_BC = drawn_N.view(targets.items_BC.shape) + FIRST_ITEM
        labels = {_LABEL: self.demand_V[items_BC]}
        anchor_BC = torch.full_like(targets.anchor_BC, -1)
        return replace(batch, targets=replace(targets, items_BC=items_BC, anchor_BC=anchor_BC, labels=labels))

    def count(self, view: Batch) -> Tensor:
        """Count the drawn items."""
        return view.targets.mask_BC.sum().float()

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the log of the demand of items [B, C]."""
        return self.log_demand(encoded.items(targets.items_BC))

    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Add up the negative log-likelihoods, less what does not depend on the predictions."""
        mask_BC = view.targets.mask_BC
        scores_N = self.log_demand(encoded.items(view.targets.items_BC[mask_BC]))
        errors_N = scores_N.exp() - view.targets.labels[_LABEL][mask_BC] * scores_N
        return errors_N.sum() + encoded.nothing()

    def log_demand(self, vectors: Tensor) -> Tensor:
        """Return the log of the demand [*] for item vectors [*, D]."""
        scores: Tensor = self.tower(vectors).squeeze(-1)
        return scores.clamp(max=_LARGEST)

    def predict(self, logits: Tensor) -> Tensor:
        """Return demands, in those of the mean item."""
        return logits.exp()

    def foretold(self, vectors_ND: Tensor) -> Tensor:
        """Return the demand of items [N], in that of the mean item."""
        return self.predict(self.log_demand(vectors_ND))
