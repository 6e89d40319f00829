"""What may be asked of a run: its tasks, the columns of a moment, the features of items."""

from collections.abc import Mapping
from dataclasses import dataclass

from raysys.data.dataset import Manifest
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError, nearest
from raysys.tasks.bundle import Bundle
from raysys.tasks.item_pairs import ItemPairs
from raysys.tasks.multitask import MultiTask
from serving.answers.filters import FilterIndex
from serving.answers.question import COSINE
from serving.catalogue.live import LiveItems
from serving.errors import RefusedError


@dataclass(frozen=True)
class TaskNames:
    """The tasks of a run, by what they can be asked for."""

    scoring: tuple[str, ...]
    """What a final score can be made of; first the task that retrieves."""
    similar: tuple[str, ...]
    """What compares items, the first by default."""
    bundle: str
    """What completes baskets."""

    @staticmethod
    def of(network: MultiTask) -> "TaskNames":
        """Return those of a network."""
        named = {name: network.named_tasks()[name] for name in network.retrieving()}
        return TaskNames(
            (network.retrieving()[0], *network.pair_scorers()),
            (*(name for name, task in named.items() if isinstance(task, ItemPairs)), COSINE),
            next((name for name, task in named.items() if isinstance(task, Bundle)), COSINE),
        )

    def check_config(self, weights: Mapping[str, float]) -> None:
        """Refuse weights of a config for tasks that are not there.

        Raises:
            UserError: a task is unknown, or all weights are 0.
        """
        if problem := self.problem(weights):
            raise UserError(f"ranking.score{problem}")

    def problem(self, weights: Mapping[str, float]) -> str | None:
        """Return what is wrong with weights of a final score; None where nothing is."""
        for name in weights:
            if name not in self.scoring:
                hint = f"{nearest(name, self.scoring)} (there are: {', '.join(self.scoring)})"
                return f".{name}: no task of the run that a score can be made of{hint}"
        return None if any(weights.values()) else f": give a weight other than 0 to one of {', '.join(self.scoring)}"


class Terms:
    """Checks what a request names against what the run has."""

    def __init__(self, manifest: Manifest, names: TaskNames, items: LiveItems) -> None:
        self.names, self.items = names, items
        """The tasks, and the items of the next answers."""
        self.filters = FilterIndex(items.features)
        self._numbers, self._categories = manifest.numbers, tuple(manifest.categories)

    def knows(self, item_id: str) -> bool:
        """Tell whether the run has an item, withdrawn or not."""
        return FIRST_ITEM <= self.items.lookup([item_id])[0] < self.items.first_new

    def check_score(self, weights: Mapping[str, float], where: str) -> None:
        """Refuse weights of tasks that are not there.

        Raises:
            RefusedError: a task is unknown, or all weights are 0.
        """
        if problem := self.names.problem(weights):
            raise RefusedError(400, "bad_request", f"{where}{problem}")

    def check_context(self, context: Mapping[str, float | str], where: str) -> None:
        """Refuse columns that the events of the run do not have.

        Raises:
            RefusedError: a column is unknown, or is given text for a number or the reverse.
        """
        for name, value in context.items():
            there = self._categories if isinstance(value, str) else self._numbers
            if name not in there:
                kind = "category" if isinstance(value, str) else "number"
                told = f"{where}.{name}: events have no {kind} of this name{nearest(name, there)} ({self._columns()})"
                raise RefusedError(400, "bad_request", told)

    def _columns(self) -> str:
        categories, numbers = ", ".join(self._categories) or "none", ", ".join(self._numbers) or "none"
        return f"categories: {categories}; numbers: {numbers}"
