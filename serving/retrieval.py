"""From a question to a list of items: whose history asks, which scorer answers. Knows neither HTTP nor Ray.

Histories, queries and ranking are those of training and evaluation: there is no second way from events to features.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from raysys.data.batches import Queries, make_queries
from raysys.data.reader import history_rows
from raysys.data.schema import Split
from raysys.evaluation.baselines.popularity import PopularityScorer
from raysys.evaluation.ranking import Candidates, ModelScorer, recommend
from raysys.evaluation.task_scores import task_scores
from raysys.runs import Run
from serving.users import Histories

Source = Literal["user", "history", "popularity"]


@dataclass(frozen=True)
class Question:
    """Who asks: a user by id, or else a history of item ids, oldest first."""

    user_id: str | None
    history: tuple[str, ...]
    k: int
    exclude_seen: bool


@dataclass(frozen=True)
class Item:
    """One recommended item."""

    item_id: str
    title: str | None
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """The items, best first, and where they come from."""

    items: list[Item]
    source: Source


class Retrieval:
    """A run, loaded and ready to answer. Not meant for several threads at once."""

    def __init__(self, run: Run, histories: Histories | None) -> None:
        """Load the model and compute the item table; answers one question, so that the first client does not wait.

        Raises:
            UserError: no task of the run retrieves.
        """
        self._run, self._histories = run, histories
        self._model = ModelScorer(run.network)
        self._popularity = PopularityScorer(run.catalog.popularity)
        self._train_events = run.catalog.popularity
        self.answer(Question(None, (run.vocabulary.item_ids[0].as_py(),), 1, exclude_seen=False))

    @property
    def num_users(self) -> int:
        """Number of users whose histories are known."""
        return len(self._histories) if self._histories is not None else 0

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return self._run.vocabulary.num_items

    @torch.inference_mode()
    def answer(self, question: Question) -> Answer:
        """Rank the catalogue: by the model where anything is known of who asks, else by popularity in training."""
        queries = self._queries(question)
        if not bool(queries.history.mask_BL.any()):
            found = recommend(self._popularity, queries, question.k, question.exclude_seen)
            counts = torch.from_numpy(self._train_events)[found.items_BK]
            scores = torch.where(found.scores_BK > -torch.inf, counts, -torch.inf)
            return self._answer(queries, Candidates(found.items_BK, scores), "popularity")
        found = recommend(self._model, queries, question.k, question.exclude_seen)
        return self._answer(queries, found, "user" if question.user_id is not None else "history")

    def _queries(self, question: Question) -> Queries:
        rows, is_history = None, np.array([True])
        if question.user_id is not None and self._histories is not None:
            rows, is_history = self._histories.of(question.user_id), self._histories.reader.is_history
        if rows is None:
            items = [self._run.vocabulary.lookup(item_id) for item_id in question.history]
            rows, is_history = history_rows([np.array(items, np.int32)]), np.array([True])
        return make_queries(rows, Split.NONE, is_history, self._run.config.model.max_length)

    def _answer(self, queries: Queries, found: Candidates, source: Source) -> Answer:
        scores = task_scores(self._run.network, queries, found, self._run.calibrators)
        by_task = {name: values[0].tolist() for name, values in scores.items()}
        count = int((found.scores_BK[0] > -torch.inf).sum())  # best first: what is missing is missing at the end
        chosen = found.items_BK[0, :count].numpy()
        columns = zip(
            self._run.vocabulary.decode(chosen).to_pylist(),
            self._run.catalog.titles(chosen),
            found.scores_BK[0, :count].tolist(),
            strict=True,
        )
        items = [
            Item(item_id, title, score, {name: values[place] for name, values in by_task.items()})
            for place, (item_id, title, score) in enumerate(columns)
        ]
        return Answer(items, source)
