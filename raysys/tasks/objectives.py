"""What a retrieval task minimises. To add one: write a class derived from Objective and its line in OBJECTIVES."""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.dataset import Dataset
from raysys.model.items.encoder import ItemVectors
from raysys.tasks import losses
from raysys.tasks.draws import draw_below, draw_uniform
from raysys.tasks.negatives import PAIRS, SHARES, Asked, Sampler, shared_targets

_HARDEST = 4  # synthetic negatives are mixed from the hardest quarter of the drawn ones


class Objective(nn.Module):
    """Compares queries with their targets."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items

    def observe(self, dataset: Dataset) -> None:
        """Take the statistics of the training period that it needs; by default none."""

    @abstractmethod
    def forward(self, asked: Asked, items: ItemVectors) -> Tensor:
        """Return the loss summed over the rows of `asked`, with a graph even when there are none."""


class FullSoftmax(Objective):
    """Cross-entropy over the whole catalogue."""

    class Config(FrozenConfig):
        """Full softmax: learns most per step; its cost grows with the catalogue."""

        kind: Literal["full_softmax"] = "full_softmax"
        precision: Literal["float32", "bfloat16", "auto"] = "float32"
        """Of the matrix products with the item table. bfloat16 is about three times as fast where the processor
        multiplies it itself, and ten times slower where it does not; auto takes it in the first case only."""

    def __init__(self, config: Config, num_items: int) -> None:
        super().__init__(config, num_items)
        self.precision = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(config.precision)

    def forward(self, asked: Asked, items: ItemVectors) -> Tensor:
        """Return the summed cross-entropy."""
        precision = self.precision or losses.fast_precision(asked.queries_ND.device)
        return losses.full_softmax(asked.queries_ND, items.table(), asked.targets_N, precision)


class SamplingConfig(FrozenConfig):
    """What the losses with negatives have in common."""

    negatives: int = Field(1, ge=1)
    """Drawn for each target."""
    popularity: float = Field(0.0, ge=0)
    """Items are drawn in proportion to (training events)^popularity: 0 uniformly, 1 by popularity."""


class Sampling(Objective):
    """Compares each target with items drawn for it."""

    def __init__(self, config: SamplingConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.negatives = config.negatives
        self.sampler = Sampler(num_items, config.popularity)

    def observe(self, dataset: Dataset) -> None:
        """Take the popularity of items in training."""
        self.sampler.observe(dataset)

    def forward(self, asked: Asked, items: ItemVectors) -> Tensor:
        """Return the loss over the targets' scores and those of their negatives."""
        table_VD = items.table()
        drawn_NK = self.sampler.draw(asked, self.negatives)
        scores = losses.item_scores(
            asked.queries_ND, table_VD, torch.cat([asked.targets_N.unsqueeze(1), drawn_NK], dim=1)
        )
        negative_NK = scores[:, 1:].masked_fill(drawn_NK == asked.targets_N.unsqueeze(1), -torch.inf)
        return self.compare(scores[:, 0], self.widened(negative_NK, drawn_NK, asked, table_VD))

    def widened(self, negative_NK: Tensor, drawn_NK: Tensor, asked: Asked, table_VD: Tensor) -> Tensor:
        """Return the scores of the negatives as they are compared, with further ones; by default as they are."""
        return negative_NK

    @abstractmethod
    def compare(self, positive_N: Tensor, negative_NK: Tensor) -> Tensor:
        """Return the summed loss; negatives that are the target itself have the score -inf."""


class SampledSoftmax(Sampling):
    """Cross-entropy over the target and a sample of items: its cost does not grow with the catalogue."""

    class Config(SamplingConfig):
        """Sampled softmax, for large catalogues."""

        kind: Literal["sampled_softmax"] = "sampled_softmax"
        negatives: int = Field(256, ge=1)
        """Drawn for each target."""
        in_batch: int = Field(0, ge=0)
        """Further negatives that all targets of a step share: so many of the step's own targets (with
        `training.accumulate`, of the part's)."""
        logq: bool = True
        """Lower each negative's score by the log of how often it was expected among the draws, so that the loss
        estimates that of the full softmax. Without it the same negatives push harder."""
        mixed: int = Field(0, ge=0)
        """Further synthetic negatives per target, mixed from pairs of its hardest ones (MoCHi)."""

        @model_validator(mode="after")
        def _enough_to_mix(self) -> "SampledSoftmax.Config":
            if self.mixed and self.negatives < 2 * _HARDEST:
                raise ValueError(f"mixed: needs negatives of at least {2 * _HARDEST}, {self.negatives} given")
            return self

    def __init__(self, config: Config, num_items: int) -> None:
        super().__init__(config, num_items)
        self.in_batch, self.logq, self.mixed = config.in_batch, config.logq, config.mixed
        self.by_popularity = Sampler(num_items, 1.0) if config.in_batch else None

    def observe(self, dataset: Dataset) -> None:
        """Take the popularity of items in training."""
        super().observe(dataset)
        if self.by_popularity is not None:
            self.by_popularity.observe(dataset)

    def compare(self, positive_N: Tensor, negative_NK: Tensor) -> Tensor:
        """Return the summed cross-entropy."""
        return losses.sampled_softmax(positive_N, negative_NK)

    def widened(self, negative_NK: Tensor, drawn_NK: Tensor, asked: Asked, table_VD: Tensor) -> Tensor:
        """Return the scores of draws, shared draws and mixes, corrected."""
        parts = [self._corrected(negative_NK, drawn_NK)]
        if self.in_batch:
            shared_M = shared_targets(asked, self.in_batch)
            shared_NM = asked.queries_ND @ table_VD[shared_M].T
            shared_NM = shared_NM.masked_fill(shared_M == asked.targets_N.unsqueeze(1), -torch.inf)
            parts.append(self._corrected(shared_NM, shared_M))
        if self.mixed:
            place = (asked.key, asked.rows_N, asked.places_N)
            pairs = draw_below(self.negatives // _HARDEST, *place, 2 * self.mixed, PAIRS).view(-1, self.mixed, 2)
            shares = draw_uniform(*place, self.mixed, SHARES)
            parts.append(losses.mixed_negatives(parts[0], pairs, shares))
        return torch.cat(parts, dim=1)

    def _corrected(self, scores: Tensor, items: Tensor) -> Tensor:
        """Lower scores by the log of the expected number of the item among all draws of a target."""
        if not self.logq:
            return scores
        expected_V = self.negatives * self.sampler.chances_V
        if self.by_popularity is not None:
            expected_V = expected_V + self.in_batch * self.by_popularity.chances_V
        return scores - expected_V.log()[items]


class BinaryCrossEntropy(Sampling):
    """Is it the next item, yes or no."""

    class Config(SamplingConfig):
        """SASRec's own loss."""

        kind: Literal["bce"] = "bce"

    def compare(self, positive_N: Tensor, negative_NK: Tensor) -> Tensor:
        """Return the summed binary cross-entropy."""
        return losses.binary_cross_entropy(positive_N, negative_NK)


class GeneralisedBinaryCrossEntropy(Sampling):
    """Binary cross-entropy made good for the overconfidence that sampling brings (gSASRec)."""

    class Config(SamplingConfig):
        """gSASRec's loss."""

        kind: Literal["gbce"] = "gbce"
        negatives: int = Field(256, ge=1)
        """Drawn for each target."""
        calibration: float = Field(0.75, ge=0, le=1)
        """t of the paper: 0 is plain binary cross-entropy, 1 calibrates fully."""

    def __init__(self, config: Config, num_items: int) -> None:
        super().__init__(config, num_items)
        self.power = losses.gbce_power(config.negatives, num_items, config.calibration)

    def compare(self, positive_N: Tensor, negative_NK: Tensor) -> Tensor:
        """Return the summed generalised binary cross-entropy."""
        return losses.generalised_binary_cross_entropy(positive_N, negative_NK, self.power)


class BayesianPersonalisedRanking(Sampling):
    """The target shall score above what was drawn: the classical loss of matrix factorisation."""

    class Config(SamplingConfig):
        """Bayesian personalised ranking."""

        kind: Literal["bpr"] = "bpr"

    def compare(self, positive_N: Tensor, negative_NK: Tensor) -> Tensor:
        """Return the summed pairwise loss."""
        return losses.bayesian_personalised_ranking(positive_N, negative_NK)


class Triplet(Sampling):
    """The target shall score above what was drawn by a margin, and no more is asked."""

    class Config(SamplingConfig):
        """Hinge of a triplet."""

        kind: Literal["triplet"] = "triplet"
        margin: float = Field(1.0, gt=0)
        """By which the target's score shall exceed a negative's."""

    def __init__(self, config: Config, num_items: int) -> None:
        super().__init__(config, num_items)
        self.margin = config.margin

    def compare(self, positive_N: Tensor, negative_NK: Tensor) -> Tensor:
        """Return the summed hinge."""
        return losses.triplet(positive_N, negative_NK, self.margin)


OBJECTIVES: dict[str, type[Objective]] = {
    "bce": BinaryCrossEntropy,
    "bpr": BayesianPersonalisedRanking,
    "full_softmax": FullSoftmax,
    "gbce": GeneralisedBinaryCrossEntropy,
    "sampled_softmax": SampledSoftmax,
    "triplet": Triplet,
}
