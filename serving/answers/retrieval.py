"""From questions to lists of items, several at once. Knows neither HTTP nor Ray nor where states are kept.

Queries and ranking are those of training and evaluation: there is no second way from events to features. A question
goes through: candidates (shortlist.py), what tasks predict of them (ranking.py), slots (slots.py), reasons
(explaining.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raysys.data.batches import Columns, History
from raysys.data.schema import FIRST_ITEM
from raysys.evaluation.pair_scores import task_scores
from raysys.evaluation.ranking import ModelScorer, query_vectors
from raysys.model.items.new import NewItems
from raysys.model.recommender import Encoded
from raysys.runs import Run
from serving.answers.encoded import EncodedUsers
from serving.answers.encoding import StateEncoder
from serving.answers.explaining import reasons
from serving.answers.popularity import RecentPopularity
from serving.answers.question import Answer, Item, Question, Reason
from serving.answers.ranking import Weights, final_scores, padded
from serving.answers.sampling import sample_queries
from serving.answers.shortlist import Searcher, Shortlist
from serving.answers.slots import Chance, Filled, fill
from serving.answers.terms import TaskNames
from serving.catalogue.live import LiveItems
from serving.config import AnswerConfig
from serving.index import Products, make_index
from serving.rules import Rule, RuleFacts, make_rules

_WIDER = 8  # times as many candidates are looked at where rules left too few


class Retrieval:
    """A run, loaded and ready to answer. Not meant for several threads at once."""

    def __init__(self, run: Run, config: AnswerConfig, device: torch.device | None = None) -> None:
        """Load the model and build the index; answers one question, so that the first client does not wait.

        Network and vectors are on a device, by default the CPU; states come from there and lists go back.

        Raises:
            UserError: no task of the run retrieves, or the config asks for what the run does not have.
        """
        self._device = device or torch.device("cpu")
        self._run, self._network, self._ranking = run, run.network.to(self._device), config.ranking
        self._encoder, self._length = StateEncoder(run), run.config.model.max_length
        self._rule_configs = config.rules
        scorer = ModelScorer(self._network)
        self.index = make_index(config.retrieval, Products(scorer.table_VD), lambda: sample_queries(run, scorer))
        self.recent = RecentPopularity(run)
        """Popularity by window."""
        self.names = TaskNames.of(self._network)
        """What it can be asked for."""
        if config.ranking.score is not None:
            self.names.check_config(config.ranking.score)
        self._next = self._live = self._with(LiveItems(run))
        self.answers([Question(k=1)])

    def follow(self, items: LiveItems) -> None:
        """Answer from the next questions on with other items. From another thread, while questions are answered."""
        self._next = self._with(items)

    @torch.inference_mode()
    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer each: by the model where anything is known of who asks, else by popularity."""
        self._live = self._next
        users = EncodedUsers(self._network, self._encoder, questions, self._length, self._device)
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

    @property
    def _searcher(self) -> Searcher:
        return self._live.searcher

    @property
    def _rules(self) -> Sequence[Rule]:
        return self._live.rules

    def _with(self, items: LiveItems) -> "_Live":
        run = self._run
        rules = make_rules(self._rule_configs, RuleFacts(run.manifest, items, items.features))
        new = None if items.new is None else items.new.to(self._device)
        return _Live(items, new, rules, Searcher(run, self.index, items, rules, self.recent))

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
        scores = self._task_scores(users.encoded, users.asking.anchor_B, items_BK, users.context)
        for row in wanted:
            count = len(lists[row].items_K)
            lists[row].predicted = {name: values[row, :count].numpy() for name, values in scores.items()}

    def _task_scores(self, encoded: Encoded, anchor_B: Tensor, items_BK: Tensor, context: Columns) -> dict[str, Tensor]:
        """Return what tasks predict; new items are told of by their vectors and features, as single items unknown."""
        encoded, asked_BK = replace(encoded, new=self._live.new), items_BK.to(self._device, non_blocking=True)
        scores = task_scores(self._network, encoded, anchor_B, asked_BK, self._run.calibrators, context)
        return {name: values.cpu() for name, values in scores.items()}

    def _answer(
        self, question: Question, shown: Shortlist, filled: Filled, why: Sequence[tuple[Reason, ...]] | None
    ) -> Answer:
        predicted = {name: values.tolist() for name, values in shown.predicted.items()} if question.scores else {}
        columns = zip(
            *self._live.items.names(shown.items_K),
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

    def _unknown(self, question: Question) -> tuple[str, ...]:
        if question.candidates is None:
            return ()
        items = self._live.items
        indices = items.lookup(question.candidates)
        there = indices >= FIRST_ITEM
        if items.open is not None:
            there[there] = items.open.holds(indices[there])
        return tuple(name for name, known in zip(question.candidates, there.tolist(), strict=True) if not known)

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
            history, anchor_N = history.to(self._device), anchor_N.to(self._device)
            encoded = self._network.recommender(history)
            task = question.task or self._searcher.main
            queries_ND = query_vectors(self._network, self._network.retriever(task), history, anchor_N, encoded)
            retrieved_NK = self._searcher.retrieved(queries_ND, found.items_K)
            if weights is None:
                return retrieved_NK[:, places]
            items_NK = torch.from_numpy(found.items_K).expand(len(anchor_N), -1)
            context = users.context.at(torch.full((len(anchor_N),), row))
            scores = self._task_scores(encoded, anchor_N, items_NK, context)
            predicted = {name: values.numpy() for name, values in scores.items()}
            return final_scores(weights, self._searcher.main, retrieved_NK, predicted, True)[:, places]

        return reasons(users.queries.history, row, found.final_K[places], score, self._run.vocabulary)


@dataclass(frozen=True)
class _Live:
    """What is made anew when items change."""

    items: LiveItems
    new: NewItems | None
    """New items, where the network is."""
    rules: Sequence[Rule]
    searcher: Searcher


_NOTHING = np.zeros(0, np.int64)
