"""From questions to lists of items, several at once. Knows neither HTTP nor Ray nor where states are kept.

Queries and ranking are those of training and evaluation: there is no second way from events to features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from raysys.data.batches import Queries, make_queries
from raysys.data.schema import Split
from raysys.evaluation.baselines.popularity import PopularityScorer
from raysys.evaluation.pair_scores import task_scores
from raysys.evaluation.ranking import Candidates, ModelScorer, recommend
from raysys.runs import Run
from serving.encoding import StateEncoder
from serving.question import Answer, Item, Question


class Retrieval:
    """A run, loaded and ready to answer. Not meant for several threads at once."""

    def __init__(self, run: Run) -> None:
        """Load the model and compute the item table; answers one question, so that the first client does not wait.

        Raises:
            UserError: no task of the run retrieves.
        """
        self._run, self._encoder = run, StateEncoder(run)
        self._model = ModelScorer(run.network)
        self._popularity = PopularityScorer(run.catalog.popularity)
        self._train_events = torch.from_numpy(run.catalog.popularity)
        self.answers([Question(k=1)])

    @torch.inference_mode()
    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Rank the catalogue for each: by the model where anything is known of who asks, else by popularity."""
        queries = self._queries(questions)
        known = queries.history.mask_BL.any(1).tolist()
        if len(set(known)) == 1:
            return self._ranked(queries, questions, known[0])
        found: dict[int, Answer] = {}
        for is_known in (True, False):
            places = [place for place, one in enumerate(known) if one == is_known]
            own = [questions[place] for place in places]
            found |= zip(places, self._ranked(self._queries(own), own, is_known), strict=True)
        return [found[place] for place in range(len(questions))]

    def _queries(self, questions: Sequence[Question]) -> Queries:
        rows = self._encoder.rows([question.state for question in questions])
        queries = make_queries(rows, Split.NONE, self._encoder.is_history, self._run.config.model.max_length)
        excluding = torch.tensor([question.exclude_seen for question in questions])[queries.seen_rows_N]
        return replace(
            queries, seen_rows_N=queries.seen_rows_N[excluding], seen_items_N=queries.seen_items_N[excluding]
        )

    def _ranked(self, queries: Queries, questions: Sequence[Question], is_known: bool) -> list[Answer]:
        found = recommend(self._model if is_known else self._popularity, queries, max(q.k for q in questions))
        if not is_known:
            counts = self._train_events[found.items_BK]
            found = replace(found, scores_BK=torch.where(found.scores_BK > -torch.inf, counts, -torch.inf))
        predicted = task_scores(self._run.network, queries, found, self._run.calibrators)
        return [
            Answer(self._items(found, predicted, row, question.k), question.source if is_known else "popularity")
            for row, question in enumerate(questions)
        ]

    def _items(self, found: Candidates, predicted: Mapping[str, Tensor], row: int, k: int) -> list[Item]:
        scores = found.scores_BK[row, :k]
        count = int((scores > -torch.inf).sum())  # best first: what is missing is missing at the end
        chosen = found.items_BK[row, :count].numpy()
        by_task = {name: values[row, :count].tolist() for name, values in predicted.items()}
        columns = zip(
            self._run.vocabulary.decode(chosen).to_pylist(),
            self._run.catalog.titles(chosen),
            scores[:count].tolist(),
            strict=True,
        )
        return [
            Item(item_id, title, score, {name: values[place] for name, values in by_task.items()})
            for place, (item_id, title, score) in enumerate(columns)
        ]
