"""The candidates of questions: found in the catalogue by the task that asks, or by popularity where nobody is known."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raysys.data.schema import FIRST_ITEM
from raysys.runs import Run
from serving.answers.encoded import EncodedUsers
from serving.answers.filters import FilterIndex
from serving.answers.popularity import RecentPopularity
from serving.answers.question import COSINE, Question
from serving.catalogue.live import LiveItems
from serving.index import Allowed, Asked, Cosines, Counts, Extended, Index, Scores, search_exactly
from serving.rules import Rule
from serving.rules.rule import NO_ITEMS

_POPULARITY = ""


@dataclass
class Shortlist:
    """The candidates of one question, best first."""

    items_K: np.ndarray  # i64, vocabulary indices
    retrieved_K: np.ndarray  # f32, by the task that retrieves
    is_known: bool
    """Whether the model found them, or popularity."""
    is_all: bool
    """Whether there are no others."""
    predicted: dict[str, np.ndarray] = field(default_factory=dict)  # task -> [K]
    final_K: np.ndarray = field(default_factory=lambda: np.zeros(0))  # what orders them

    def chosen(self, places: Sequence[int]) -> "Shortlist":
        """Return some of them, in the order of places."""
        at = np.array(places, np.int64)
        predicted = {name: values[at] for name, values in self.predicted.items()}
        return replace(
            self,
            items_K=self.items_K[at],
            retrieved_K=self.retrieved_K[at],
            predicted=predicted,
            final_K=self.final_K[at],
        )


class Searcher:
    """Searches for many questions, those of one kind at once."""

    def __init__(
        self, run: Run, index: Index, items: LiveItems, rules: Sequence[Rule], recent: RecentPopularity
    ) -> None:
        self._items, self._filters, self._rules = items, FilterIndex(items.features), rules
        self._recent, self._history = recent, run.manifest.history
        new_ND = None if items.new is None else items.new.vectors_ND
        self._index = index if new_ND is None else Extended(index, new_ND)
        self._products = self._index.products
        self.main = run.network.retrieving()[0]
        """The task that asks where a question names none."""
        counts_I = torch.from_numpy(items.popularity(run.catalog.popularity[FIRST_ITEM:]))
        cosines = Cosines(index.products.table_ID, new_ND)
        self._scores: dict[str, Scores] = {COSINE: cosines, _POPULARITY: Counts(counts_I)}
        flags = [own for rule in rules if (own := rule.flags()) is not None]
        if flags and items.open is not None:
            flags.append(items.open.flags)
        self._always = Allowed.flagged(np.logical_and.reduce(flags)) if flags else items.open

    def search(
        self, questions: Sequence[Question], users: EncodedUsers, rows: Sequence[int], depths: Sequence[int]
    ) -> dict[int, Shortlist]:
        """Return, of questions at some rows, as many candidates as they want, and those that rules want beside them."""
        had = users.had
        without = {row: self._without(questions[row], had[row]) for row in rows}
        groups: dict[tuple[str | int, Allowed | None], list[int]] = defaultdict(list)
        for row in rows:
            groups[self._asks(questions[row], users.known[row]), self._allowed(questions[row])].append(row)
        found: dict[int, Shortlist] = {}
        for (task, allowed), own in groups.items():
            asked = Asked(self._queries(task, users, questions)[own], [without[row] for row in own])
            items_BK, scores_BK = self._best(task, asked, max(depths[row] for row in own), allowed)
            for place, row in enumerate(own):
                count = min(int(np.count_nonzero(scores_BK[place] > -np.inf)), depths[row])
                items_K, scores_K = items_BK[place, :count], scores_BK[place, :count]
                if self._rules and questions[row].rules == "all":
                    more = self._wanted(items_K, without[row], allowed)
                    scores_1K = self._scored(task).of(asked.queries_BD[[place]], torch.from_numpy(more) - FIRST_ITEM)
                    items_K, scores_K = np.append(items_K, more), np.append(scores_K, scores_1K[0].cpu().numpy())
                found[row] = Shortlist(
                    items_K, scores_K, task != _POPULARITY and not isinstance(task, int), count < depths[row]
                )
        return found

    def retrieved(self, queries_ND: Tensor, items_K: np.ndarray) -> np.ndarray:
        """Return how the run's first retrieving task scores items [N, K]."""
        return self._products.of(queries_ND, torch.from_numpy(items_K) - FIRST_ITEM).cpu().numpy()

    def directions(self, items_K: np.ndarray) -> np.ndarray:
        """Return the vectors of items, of length 1 [K, D]."""
        vectors_KD = self._products.vectors(torch.from_numpy(items_K) - FIRST_ITEM)
        return F.normalize(vectors_KD, dim=-1).cpu().numpy()

    def _best(self, task: str | int, asked: Asked, k: int, allowed: Allowed | None) -> tuple[np.ndarray, np.ndarray]:
        if task == self.main:
            chosen = self._index.search(asked, k, allowed)
        else:
            chosen = search_exactly(self._scored(task), asked, k, allowed)
        return chosen.items_BK.numpy(), chosen.scores_BK.numpy()

    def _asks(self, question: Question, is_known: bool) -> str | int:
        """Return the task that asks, or the days of popularity, or _POPULARITY."""
        return question.days or question.task or (self.main if is_known else _POPULARITY)

    def _scored(self, task: str | int) -> Scores:
        if isinstance(task, int):
            counts_I = torch.from_numpy(self._items.popularity(self._recent.counts(task)))
            return Counts(torch.where(counts_I > 0, counts_I, -torch.inf))
        return self._scores.get(task, self._products)

    def _queries(self, task: str | int, users: EncodedUsers, questions: Sequence[Question]) -> Tensor:
        history = users.asking.history
        if isinstance(task, int) or task == _POPULARITY:
            return torch.zeros(len(users.known), 1)
        if task != COSINE:
            return users.vectors(task)
        vectors_BLD = F.normalize(self._products.table_ID[(history.items_BL - FIRST_ITEM).clamp(min=0)], dim=-1)
        sums_BD = (vectors_BLD * history.mask_BL.unsqueeze(-1)).sum(1)
        for row, question in enumerate(questions):
            if len(new := self._new_in(question)):
                sums_BD[row] += torch.from_numpy(self.directions(new).sum(0)).to(sums_BD.device)
        return F.normalize(sums_BD, dim=-1)

    def _without(self, question: Question, had: np.ndarray) -> np.ndarray:
        parts = [had] if question.exclude_seen else []
        if question.exclude_seen and self._items.new_ids:
            parts.append(self._new_in(question))
        if question.rules == "all":
            parts += [rule.without(question.state, question.time) for rule in self._rules]
        return parts[0] if len(parts) == 1 else np.concatenate([NO_ITEMS, *parts])

    def _new_in(self, question: Question) -> np.ndarray:
        """Return the new items of a history: no tokens of the model, but items that were had all the same."""
        return self._items.new_among(one.item_id for one in question.state.events if one.event in self._history)

    def _wanted(self, items_K: np.ndarray, without: np.ndarray, allowed: Allowed | None) -> np.ndarray:
        """Return what rules want beside the candidates, as far as it may be there."""
        wanted = np.concatenate([NO_ITEMS, *(rule.wanted() for rule in self._rules)])
        if not len(wanted):
            return wanted
        found = np.setdiff1d(wanted, np.concatenate([items_K, without]))
        return found if allowed is None else found[allowed.holds(found)]

    def _allowed(self, question: Question) -> Allowed | None:
        """Return the one set of items that a question may be answered with; None for all."""
        allowed = self._items.open if question.rules == "none" else self._always
        if question.filters:
            allowed = self._filters.allowed(question.filters, allowed)
        if question.candidates is not None:
            items = self._items.lookup(question.candidates)
            allowed = Allowed.listed(items[items >= FIRST_ITEM], self._products.num_items, allowed)
        return allowed
