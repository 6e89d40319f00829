"""What may be asked of a run: its tasks, the columns of a moment, the features of items."""

from collections.abc import Mapping

from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError, nearest
from raysys.runs import Run
from raysys.tasks.bundle import Bundle
from raysys.tasks.item_pairs import ItemPairs
from serving.answers.filters import FilterIndex
from serving.answers.question import COSINE
from serving.catalogue.live import LiveItems
from serving.errors import RefusedError


class Terms:
    """Checks what a request names against what the run has."""

    def __init__(self, run: Run, items: LiveItems, retriever: str) -> None:
        self.items = items
        """Those of the next answers."""
        self.filters = FilterIndex(items.features)
        self.tasks = (retriever, *run.network.pair_scorers())
        """What a final score can be made of."""
        named = {name: run.network.named_tasks()[name] for name in run.network.retrieving()}
        self.similar = (*(name for name, task in named.items() if isinstance(task, ItemPairs)), COSINE)
        """What compares items, the first by default."""
        self.bundle = next((name for name, task in named.items() if isinstance(task, Bundle)), COSINE)
        """What completes baskets."""
        self._numbers, self._categories = run.manifest.numbers, tuple(run.manifest.categories)

    def knows(self, item_id: str) -> bool:
        """Tell whether the run has an item, withdrawn or not."""
        return FIRST_ITEM <= self.items.lookup([item_id])[0] < self.items.first_new

    def check_score(self, weights: Mapping[str, float], where: str) -> None:
        """Refuse weights of tasks that are not there.

        Raises:
            RefusedError: a task is unknown, or all weights are 0.
        """
        if problem := self._problem(weights):
            raise RefusedError(400, "bad_request", f"{where}{problem}")

    def check_config(self, weights: Mapping[str, float]) -> None:
        """Do the same for a config.

        Raises:
            UserError: as above.
        """
        if problem := self._problem(weights):
            raise UserError(f"ranking.score{problem}")

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

    def _problem(self, weights: Mapping[str, float]) -> str | None:
        for name in weights:
            if name not in self.tasks:
                hint = f"{nearest(name, self.tasks)} (there are: {', '.join(self.tasks)})"
                return f".{name}: no task of the run that a score can be made of{hint}"
        return None if any(weights.values()) else f": give a weight other than 0 to one of {', '.join(self.tasks)}"

    def _columns(self) -> str:
        categories, numbers = ", ".join(self._categories) or "none", ", ".join(self._numbers) or "none"
        return f"categories: {categories}; numbers: {numbers}"
