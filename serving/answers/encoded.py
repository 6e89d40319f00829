"""The users of some questions, encoded once: their states, their queries by task, and what they already had."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from raysys.data.batches import Columns, make_queries
from raysys.data.schema import Split
from raysys.evaluation.ranking import query_vectors
from raysys.model.recommender import Encoded
from raysys.tasks.multitask import MultiTask
from serving.answers.encoding import StateEncoder
from serving.answers.question import Question


class EncodedUsers:
    """A batch of questions, seen by the model; what nobody asks for is not computed."""

    def __init__(
        self,
        network: MultiTask,
        encoder: StateEncoder,
        questions: Sequence[Question],
        length: int,
        device: torch.device,
    ) -> None:
        """Encode for a network on a device; of each user the newest `length` history events count."""
        self._network = network
        self._contexts = [question.context for question in questions]
        self._encoder = encoder
        rows = encoder.rows([question.state for question in questions])
        self.queries = make_queries(rows, Split.NONE, encoder.is_history, length)
        self.asking = self.queries.to(device)
        """The queries on the device."""
        self.known: list[bool] = self.queries.history.mask_BL.any(1).tolist()
        """Of whom a token is known: the others are answered by popularity."""
        self._vectors: dict[str, Tensor] = {}

    @cached_property
    def encoded(self) -> Encoded:
        """The states."""
        encoded: Encoded = self._network.recommender(self.asking.history)
        return encoded

    def vectors(self, task: str) -> Tensor:
        """Return what a retrieving task asks with, [B, D]."""
        if task not in self._vectors:
            asking = (self.asking.history, self.asking.anchor_B, self.encoded)
            self._vectors[task] = query_vectors(self._network, self._network.retriever(task), *asking)
        return self._vectors[task]

    @cached_property
    def had(self) -> list[np.ndarray]:
        """Return the items that each user already had, with repetitions."""
        rows, items = self.queries.seen_rows_N.numpy(), self.queries.seen_items_N.numpy()
        return np.split(items, np.searchsorted(rows, np.arange(1, len(self.known))))

    @cached_property
    def context(self) -> Columns:
        """What the questions say of the moment, [B, 1], on the device; empty where none says anything."""
        if not any(self._contexts):
            return Columns()
        values = self._encoder.context(self._contexts)
        found = Columns(
            {name: torch.from_numpy(own).unsqueeze(1) for name, own in values.numbers.items()},
            {name: torch.from_numpy(own).long().unsqueeze(1) for name, own in values.categories.items()},
        )
        return found.to(self.asking.anchor_B.device)
