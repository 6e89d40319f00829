"""From questions to lists of items, several at once. Knows neither HTTP nor Ray nor where states are kept.

Queries and ranking are those of training and evaluation: there is no second way from events to features. A question
goes through: candidates (shortlist.py), what tasks predict of them (ranking.py), slots (slots.py), reasons
(explaining.py).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from raysys.data.batches import History
from raysys.data.schema import FIRST_ITEM
from raysys.evaluation.pair_scores import task_scores
from raysys.evaluation.ranking import ModelScorer
from raysys.runs import Run
from serving.config import AnswerConfig
from serving.encoded import EncodedUsers, query_vectors
from serving.encoding import StateEncoder
from serving.explaining import reasons
from serving.features import ItemFeatures
from serving.filters import FilterIndex
from serving.index import Products, make_index
from serving.popularity import RecentPopularity
from serving.question import Answer, Item, Question, Reason
from serving.ranking import Weights, final_scores, padded
from serving.rules import RuleFacts, make_rules
from serving.sampling import sample_queries
from serving.shortlist import Searcher, Shortlist
from serving.slots import Chance, Filled, fill
from serving.terms import Terms

_WIDER = 8  # times as many candidates are looked at where rules left too few


class Retrieval:
    """A run, loaded and ready to answer. Not meant for several threads at once."""

    def __init__(self, run: Run, config: AnswerConfig) -> None:
        """Load the model and build the index; answers one question, so that the first client does not wait.

        Raises:
            UserError: no task of the run retrieves, or the config asks for what the run does not have.
        """
        self._run, self._network, self._ranking = run, run.network, config.ranking
        self._encoder, self._length = StateEncoder(run), run.config.model.max_length
        self._ids, self._titles = run.vocabulary.item_ids, run.catalog.table["title"].combine_chunks()
        features = ItemFeatures(run.catalog)
        filters = FilterIndex(features)
        self._rules = make_rules(config.rules, RuleFacts(run.manifest, run.vocabulary, features))
        scorer = ModelScorer(self._network)
        self.index = make_index(config.retrieval, Products(scorer.table_VD), lambda: sample_queries(run, scorer))
        self.recent = RecentPopularity(run)
        """Popularity by window."""
        self._searcher = Searcher(run, self.index, filters, self._rules, self.recent)
        self.terms = Terms(run, filters, self._searcher.main)
        """What may be asked for."""
        if config.ranking.score is not None:
            self.terms.check_config(config.ranking.score)
        self.answers([Question(k=1)])

    @torch.inference_mode()
    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer each: by the model where anything is known of who asks, else by popularity."""
        users = EncodedUsers(self._network, self._encoder, questions, self._length)
        places = list(range(len(questions)))
        depths = [self._depth(question) for question in questions]
        lists, filled = self._filled(questions, users, places, depths)
        while short := [row for row in places if self._is_short(questions[row], lists[row], filled[row])]:
            for row in short:
                depths[row] *= _WIDER
            again, again_filled = self._filled(questions, users, short, depths)
            lists |= again
            filled |= again_filled
        shown = {row: lists[row].chosen(filled[row].places) for row in places}
        self._predict(questions, users, [row for row in places if questions[row].scores], shown)
        return [
            self._answer(
                questions[row],
                shown[row],
                filled[row],
                self._why(questions[row], users, row, lists[row], filled[row].places),
            )
            for row in places
        ]

    def _depth(self, question: Question) -> int:
        """Return how many candidates to begin with."""
        if question.candidates is not None:
            return max(len(question.candidates), 1)
        if not self._is_arranged(question):
            return question.k
        return max(4 * question.k, self._ranking.candidates)

    def _is_arranged(self, question: Question) -> bool:
        """Tell whether the order of a list is not simply that of the task that retrieves."""
        rules = question.rules == "all" and (self._rules or self._ranking.exploration is not None)
        return bool(rules or question.diversity or self._weights(question))

    def _weights(self, question: Question) -> Weights | None:
        return question.weights or (self._ranking.score if question.rules == "all" else None)

    def _is_short(self, question: Question, found: Shortlist, filled: Filled) -> bool:
        return len(filled.places) < question.k and not found.is_all and self._is_arranged(question)

    def _filled(
        self, questions: Sequence[Question], users: EncodedUsers, rows: list[int], depths: Sequence[int]
    ) -> tuple[dict[int, Shortlist], dict[int, Filled]]:
        """Find candidates, score and order them, and fill the slots."""
        lists = self._searcher.search(questions, users, rows, depths)
        self._predict(questions, users, [row for row in rows if self._weights(questions[row])], lists)
        for row, found in list(lists.items()):
            weights = self._weights(questions[row])
            found.final_K = found.retrieved_K if weights is None else self._final(weights, found)
            if weights is not None or self._rules:
                lists[row] = found.chosen(np.argsort(-found.final_K, kind="stable").tolist())
        return lists, {row: self._fill(questions[row], found) for row, found in lists.items()}

    def _fill(self, question: Question, found: Shortlist) -> Filled:
        if not self._is_arranged(question):
            return fill(found.final_K, question.k)
        exploration = self._ranking.exploration if question.rules == "all" else None
        rules = self._rules if question.rules == "all" else ()
        walks = [walk for rule in rules if (walk := rule.walk(found.items_K, question.k)) is not None]
        vectors_KD = self._searcher.directions(found.items_K) if question.diversity else None
        chance = None if exploration is None else Chance(exploration.temperature, question.seed)
        return fill(found.final_K, question.k, walks, question.diversity, vectors_KD, chance)

    def _final(self, weights: Weights, found: Shortlist) -> np.ndarray:
        return final_scores(weights, self._searcher.main, found.retrieved_K, found.predicted, found.is_known)

    def _predict(
        self, questions: Sequence[Question], users: EncodedUsers, rows: list[int], lists: Mapping[int, Shortlist]
    ) -> None:
        """Put beside the candidates of some questions what tasks predict of them, where it is not known yet."""
        wanted = [row for row in rows if not lists[row].predicted and len(lists[row].items_K)]
        if not wanted or not self._network.pair_scorers():
            return
        items_BK = padded([lists[row].items_K if row in wanted else _NOTHING for row in range(len(questions))])
        calibrators, anchor_B = self._run.calibrators, users.queries.anchor_B
        scores = task_scores(self._network, users.encoded, anchor_B, items_BK, calibrators, users.context)
        for row in wanted:
            count = len(lists[row].items_K)
            lists[row].predicted = {name: values[row, :count].numpy() for name, values in scores.items()}

    def _answer(
        self, question: Question, shown: Shortlist, filled: Filled, why: Sequence[tuple[Reason, ...]] | None
    ) -> Answer:
        predicted = {name: values.tolist() for name, values in shown.predicted.items()} if question.scores else {}
        columns = zip(
            *self._names(shown.items_K),
            shown.final_K.tolist(),
            filled.propensities,
            shown.retrieved_K.tolist(),
            [None] * len(shown.items_K) if why is None else why,
            strict=True,
        )
        items = [
            Item(
                item_id,
                title,
                score,
                place + 1,
                propensity,
                {name: own[place] for name, own in predicted.items()},
                retrieved,
                reasons_,
            )
            for place, (item_id, title, score, propensity, retrieved, reasons_) in enumerate(columns)
        ]
        return Answer(items, question.source if shown.is_known else "popularity", self._unknown(question))

    def _names(self, items_K: np.ndarray) -> tuple[list[str], list[str | None]]:
        """Return ids and titles, one by one: for a few, Arrow's `take` costs ten times as much."""
        places = (items_K - FIRST_ITEM).tolist()
        return [self._ids[at].as_py() for at in places], [self._titles[at].as_py() for at in places]

    def _unknown(self, question: Question) -> tuple[str, ...]:
        if question.candidates is None:
            return ()
        indices = self._run.vocabulary.lookup(question.candidates).tolist()
        return tuple(name for name, at in zip(question.candidates, indices, strict=True) if at < FIRST_ITEM)

    def _why(
        self, question: Question, users: EncodedUsers, row: int, found: Shortlist, places: list[int]
    ) -> list[tuple[Reason, ...]] | None:
        """Return the reasons of the chosen items; none of a list that does not come from the history."""
        if not question.explain:
            return None
        if not found.is_known:
            return [()] * len(places)
        weights = self._weights(question)

        def score(history: History, anchor_N: Tensor) -> np.ndarray:
            encoded = self._network.recommender(history)
            task = question.task or self._searcher.main
            queries_ND = query_vectors(self._network, task, history, anchor_N, encoded)
            retrieved_NK = self._searcher.retrieved(queries_ND, found.items_K)
            if weights is None:
                return retrieved_NK[:, places]
            items_NK = torch.from_numpy(found.items_K).expand(len(anchor_N), -1)
            context = users.context.at(torch.full((len(anchor_N),), row))
            scores = task_scores(self._network, encoded, anchor_N, items_NK, self._run.calibrators, context)
            predicted = {name: values.numpy() for name, values in scores.items()}
            return final_scores(weights, self._searcher.main, retrieved_NK, predicted, True)[:, places]

        return reasons(users.queries.history, row, found.final_K[places], score, self._run.vocabulary)


_NOTHING = np.zeros(0, np.int64)
