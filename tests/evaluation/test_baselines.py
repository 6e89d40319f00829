"""The classical baselines against plain Python over a small log with every kind of event and mark."""

import math
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raysys.data.batches import make_queries
from raysys.data.reader import UserRows
from raysys.data.schema import FIRST_ITEM, UNKNOWN, Split
from raysys.errors import UserError
from raysys.evaluation.baselines import BASELINES, baseline

NUM_USERS, NUM_ITEMS = 40, 15
ITEMS = range(FIRST_ITEM, FIRST_ITEM + NUM_ITEMS)
VIEW, BUY = 0, 1  # only what was bought is history


class Log:
    """A dataset and its reader at once: a list of (item, event, mark) per user."""

    def __init__(self, lines: list[list[tuple[int, int, int]]]) -> None:
        self.lines = lines
        self.is_history = np.array([False, True])
        self.manifest = SimpleNamespace(num_users=len(lines), num_items=NUM_ITEMS)
        counts = Counter(item for line in lines for item, event, mark in line if (event, mark) == (BUY, Split.TRAIN))
        self.catalog = SimpleNamespace(popularity=np.array([0, 0, *(counts[item] for item in ITEMS)], np.float32))

    def rows(self, rows: np.ndarray) -> UserRows:
        lines = [self.lines[row] for row in rows]
        flat = np.array([event for line in lines for event in line]).reshape(-1, 3)
        offsets = np.cumsum([0, *map(len, lines)])
        items, events, marks = flat[:, 0].astype(np.int32), flat[:, 1].astype(np.int8), flat[:, 2].astype(np.int8)
        return UserRows(offsets, items, events, np.zeros(len(flat), np.int64), marks, {}, np.asarray(rows))

    def had_in_training(self) -> list[set[int]]:
        learnt = [{item for item, event, mark in line if event == BUY and mark == Split.TRAIN} for line in self.lines]
        return [had - {UNKNOWN} for had in learnt]

    def profile(self, row: int) -> set[int]:
        return {item for item, event, mark in self.lines[row] if event == BUY and mark < Split.TEST} - {UNKNOWN}

    def queries(self, rows: list[int]):
        return make_queries(self.rows(np.array(rows)), Split.TEST, self.is_history, 5)


def random_log(seed: int) -> Log:
    """Users 0 and 1 are given, user 2 has no history, user 3 views alone, user 4 has unknown items alone."""
    draw = np.random.default_rng(seed)
    lines = []
    for user in range(NUM_USERS):
        length = int(draw.integers(2, 9))
        items = FIRST_ITEM + np.floor(NUM_ITEMS * draw.random(length) ** 2).astype(int)
        items[draw.random(length) < 0.1] = UNKNOWN
        events = np.where(draw.random(length) < 0.8, BUY, VIEW)
        first = Split.GIVEN if user < 2 else Split.TRAIN
        lines.append(list(zip(items.tolist(), events.tolist(), [first] * (length - 2) + [1, 2], strict=True)))
    lines[2] = []
    lines[3] = [(item, VIEW, mark) for item, _, mark in lines[3]]
    lines[4] = [(UNKNOWN, BUY, mark) for *_, mark in lines[4]]
    return Log(lines)


COLD = (2, 3, 4)


def fitted(kind: str, log: Log, **settings):
    part = BASELINES[kind]
    return part(part.Config(**settings)).fit(log, log)


def all_scores(scorer, queries) -> np.ndarray:
    return scorer.block(scorer.ask(queries), 0, NUM_ITEMS).numpy()


def popular(log: Log) -> list[int]:
    return sorted(ITEMS, key=lambda item: (-log.catalog.popularity[item], item))


def with_rest(votes: dict[int, float], log: Log) -> list[float]:
    """Scores in the order of the items: votes, else minus the place among the popular."""
    order = popular(log)
    return [votes[item] if votes.get(item, 0) > 0 else -1 - order.index(item) for item in ITEMS]


def cosine(a: set, b: set, shrinkage: float) -> float:
    return len(a & b) / (math.sqrt(len(a) * len(b)) + shrinkage) if a & b else 0.0


def best(similarities: dict[int, float], neighbours: int) -> dict[int, float]:
    order = sorted((key for key, value in similarities.items() if value > 0), key=lambda at: (-similarities[at], at))
    return {at: similarities[at] for at in order[:neighbours]}


def expected_itemknn(log: Log, row: int, neighbours: int, shrinkage: float, normalise: bool) -> list[float]:
    training = log.had_in_training()
    users_of = {item: {user for user, had in enumerate(training) if item in had} for item in ITEMS}
    votes: Counter = Counter()
    for source in log.profile(row):
        others = {item: cosine(users_of[source], users_of[item], shrinkage) for item in ITEMS if item != source}
        kept = best(others, neighbours)
        for item, value in kept.items():
            votes[item] += value / sum(kept.values()) if normalise else value
    return with_rest(votes, log)


def expected_userknn(log: Log, row: int, neighbours: int) -> list[float]:
    training, profile = log.had_in_training(), log.profile(row)
    others = {user: cosine(profile, had, 0) for user, had in enumerate(training) if user != row}
    votes: Counter = Counter()
    for user, value in best(others, neighbours).items():
        votes.update(dict.fromkeys(training[user], value))
    return with_rest(votes, log)


@pytest.mark.parametrize("pairs", [1, 100, 1 << 23])
@pytest.mark.parametrize(
    ("neighbours", "shrinkage", "normalise"), [(3, 0.0, False), (3, 2.5, True), (5, 20.0, False), (99, 0.0, True)]
)
def test_itemknn_is_that_of_one_item_after_the_other(monkeypatch, neighbours, shrinkage, normalise, pairs):
    monkeypatch.setattr(baseline, "_PAIRS_AT_ONCE", pairs)
    for seed in range(3):
        log = random_log(seed)
        scorer = fitted("itemknn", log, neighbours=neighbours, shrinkage=shrinkage, normalise=normalise)
        found = all_scores(scorer, log.queries(list(range(NUM_USERS))))
        for row in range(NUM_USERS):
            expected = expected_itemknn(log, row, neighbours, shrinkage, normalise)
            np.testing.assert_allclose(found[row], expected, rtol=1e-5, err_msg=f"seed {seed}, user {row}")


@pytest.mark.parametrize("pairs", [1, 100, 1 << 23])
@pytest.mark.parametrize("neighbours", [1, 4, 99])
def test_userknn_is_that_of_one_user_after_the_other(monkeypatch, neighbours, pairs):
    monkeypatch.setattr(baseline, "_PAIRS_AT_ONCE", pairs)
    for seed in range(3):
        log = random_log(seed)
        scorer = fitted("userknn", log, neighbours=neighbours)
        found = all_scores(scorer, log.queries(list(range(NUM_USERS))))
        for row in range(NUM_USERS):
            expected = expected_userknn(log, row, neighbours)
            np.testing.assert_allclose(found[row], expected, rtol=1e-5, err_msg=f"seed {seed}, user {row}")


def test_of_equal_neighbours_the_first_ones_vote():
    twins = [[(item, BUY, Split.TRAIN) for item in had] for had in ([2, 3], [2, 4], [2, 5], [3, 4, 5])]
    log = Log([*twins, [(2, BUY, Split.VALID)]])
    items = all_scores(fitted("itemknn", log, neighbours=2, shrinkage=0), log.queries([4]))[0]
    users = all_scores(fitted("userknn", log, neighbours=2), log.queries([4]))[0]
    assert [item for item in ITEMS if items[item - FIRST_ITEM] > 0] == [3, 4]
    assert [item for item in ITEMS if users[item - FIRST_ITEM] > 0] == [2, 3, 4]


def test_a_user_does_not_vote_for_himself():
    log = Log([[(2, BUY, Split.TRAIN), (3, BUY, Split.TRAIN)], [(4, BUY, Split.TRAIN), (2, BUY, Split.TRAIN)]])
    scores = all_scores(fitted("userknn", log, neighbours=1), log.queries([0]))[0]
    assert [item for item in ITEMS if scores[item - FIRST_ITEM] > 0] == [2, 4]
    stranger = log.rows(np.array([0]))
    stranger = make_queries(
        UserRows(*(getattr(stranger, name) for name in ("offsets", "items", "events", "times", "marks", "labels")),
                 users=np.array([-1])), Split.TEST, log.is_history, 5,
    )  # fmt: skip
    scores = all_scores(fitted("userknn", log, neighbours=1), stranger)[0]
    assert [item for item in ITEMS if scores[item - FIRST_ITEM] > 0] == [2, 3], "no row of the dataset is his"


def test_popularity_counts_training_events_and_breaks_ties_by_vocabulary():
    log = random_log(0)
    scores = all_scores(fitted("popularity", log), log.queries([5, 2]))
    assert [FIRST_ITEM + at for at in np.argsort(-scores[0])] == popular(log)
    assert len({log.catalog.popularity[item] for item in ITEMS}) < NUM_ITEMS, "this log has no ties"
    np.testing.assert_array_equal(scores[0], scores[1])


def settings_of(kind: str) -> dict[str, float]:
    if kind == "als":
        pytest.importorskip("implicit")
        return {"factors": 6, "iterations": 4}
    return {}


@pytest.mark.parametrize("kind", BASELINES)
def test_users_of_whom_nothing_is_known_get_the_popular_items(kind):
    log = random_log(1)
    scores = all_scores(fitted(kind, log, **settings_of(kind)), log.queries([*COLD, 9]))
    for row in range(len(COLD)):
        assert [FIRST_ITEM + at for at in np.argsort(-scores[row])] == popular(log)


@pytest.mark.parametrize("kind", BASELINES)
def test_views_given_users_and_unknown_items_teach_nothing(kind):
    log, settings = random_log(2), settings_of(kind)
    changed = Log([[*line] for line in log.lines])
    changed.lines[0] = [(7, BUY, Split.GIVEN)] * 4
    for line in changed.lines[6:]:
        line[:0] = [(5, VIEW, Split.TRAIN), (UNKNOWN, BUY, Split.TRAIN)]
        line[:] = [(6, event, mark) if mark > Split.TRAIN else (item, event, mark) for item, event, mark in line]
    queries = log.queries(list(range(NUM_USERS)))
    before = all_scores(fitted(kind, log, **settings), queries)
    np.testing.assert_array_equal(all_scores(fitted(kind, changed, **settings), queries), before)
    changed.lines[20].append((9, BUY, Split.TRAIN))
    changed.lines[21].append((9, BUY, Split.TRAIN))
    taught = Log(changed.lines)
    assert (all_scores(fitted(kind, taught, **settings), queries) != before).any(), "nor does training"


@pytest.mark.parametrize("alpha", [1.0, 7.0])
def test_als_folds_users_in_by_least_squares(alpha):
    pytest.importorskip("implicit")
    log = random_log(3)
    scorer = fitted("als", log, factors=5, regularization=0.3, alpha=alpha, iterations=5)
    found = all_scores(scorer, log.queries(list(range(NUM_USERS))))
    items_ID = scorer.items_ID.numpy().astype(np.float64)
    for row in set(range(NUM_USERS)) - set(COLD):
        if profile := [item - FIRST_ITEM for item in log.profile(row)]:
            weights_I = np.ones(NUM_ITEMS)
            weights_I[profile] = alpha
            yes_I = np.isin(np.arange(NUM_ITEMS), profile).astype(float)
            system_DD = items_ID.T @ (weights_I[:, None] * items_ID) + 0.3 * np.eye(5)
            user_D = np.linalg.solve(system_DD, items_ID.T @ (weights_I * yes_I))
            np.testing.assert_allclose(found[row], items_ID @ user_D, atol=1e-4)


def test_als_has_one_model_per_seed():
    pytest.importorskip("implicit")
    log = random_log(4)
    first, again, other = (fitted("als", log, factors=5, seed=seed).items_ID for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_als_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(UserError, match=r"pip install 'raysys\[als\]'"):
        fitted("als", random_log(0))
