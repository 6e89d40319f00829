"""What the tasks that retrieve items have in common: a state is compared with the vectors of all items."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raysys.component import FrozenConfig, OneOf, kind_of
from raysys.data.batches import Batch, History, Targets
from raysys.data.dataset import Dataset
from raysys.data.reader import UserRows
from raysys.data.schema import FIRST_ITEM, Split
from raysys.model.recommender import Encoded
from raysys.tasks.negatives import Asked
from raysys.tasks.objectives import OBJECTIVES
from raysys.tasks.task import Task, TaskContext, chosen_events


class RetrievalConfig(FrozenConfig):
    """What every retrieval task lets one choose."""

    events: tuple[str, ...] = ()
    """Events that are predicted; the history events when empty."""
    loss: Annotated[FrozenConfig, OneOf(OBJECTIVES, default="full_softmax")] = Field(
        {"kind": "full_softmax"}, validate_default=True
    )
    """What is minimised."""
    temperature: float | None = Field(None, gt=0)
    """Scale states to length 1 and divide their scores by this; null leaves them as they are. With
    `model.unit_items`, scores are cosines over the temperature: .05 to .2 are usual."""


class Retrieval(Task):
    """Scores are dot products of states and item vectors."""

    source: ClassVar[Literal["users", "items", "pairs"]] = "users"
    Config: ClassVar[type[RetrievalConfig]]
    is_predicted: Tensor

    def __init__(self, config: RetrievalConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        chosen = chosen_events(config.events, context, default=context.history)
        self.register_buffer("is_predicted", chosen, persistent=False)
        self.temperature = config.temperature
        self.objective = OBJECTIVES[kind_of(config.loss)](config.loss, context.vocabulary_size - FIRST_ITEM)

    @property
    def reads_labels(self) -> Collection[str]:
        """None: what comes next is no label."""
        return ()

    def observe(self, dataset: Dataset) -> None:
        """Let the loss take its statistics."""
        self.objective.observe(dataset)

    def ask(self, history: History, anchor_B: Tensor) -> tuple[History, Tensor]:
        """Ask from the state after the last token."""
        return history, anchor_B

    def questions(self, rows: UserRows, split: Split) -> UserRows:
        """Ask for everything of the split, at its begin."""
        return rows

    def query(self, encoded: Encoded, anchor_BC: Tensor, valid_BC: Tensor | None = None) -> Tensor:
        """A state is its own query, unless there is a temperature."""
        return self.scaled(encoded.state_before(anchor_BC, valid_BC))

    def scaled(self, vectors: Tensor) -> Tensor:
        """Return vectors [*, D] whose products with item vectors are scores."""
        return vectors if self.temperature is None else F.normalize(vectors, dim=-1) / self.temperature

    def count(self, view: Batch) -> Tensor:
        """Count the predicted targets."""
        return self.valid(view.targets).sum().float()

    def valid(self, targets: Targets) -> Tensor:
        """Return which targets are predicted, bool [B, C]."""
        return targets.mask_BC & (targets.items_BC >= FIRST_ITEM) & self.is_predicted[targets.events_BC]

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return state . item vector [B, C]."""
        return (self.query(encoded, targets.anchor_BC) * encoded.items(targets.items_BC)).sum(-1)

    def loss(self, encoded: Encoded, view: Batch, logits: Mapping[str, Tensor]) -> Tensor:
        """Compare at valid positions only."""
        valid_BC = self.valid(view.targets)
        rows_N, places_N = valid_BC.nonzero(as_tuple=True)
        asked = Asked(
            queries_ND=self.query(encoded, view.targets.anchor_BC, valid_BC),
            targets_N=view.targets.items_BC[rows_N, places_N] - FIRST_ITEM,
            rows_N=view.history.users_B[rows_N],
            places_N=places_N,
            key=view.key,
        )
        total: Tensor = self.objective(asked, encoded.items)
        return total
