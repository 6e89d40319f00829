"""Ranked lists and their metrics against a brute-force oracle in plain Python."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.configfile import build
from raysys.data.batches import make_queries
from raysys.data.dataset import Manifest
from raysys.data.reader import UserRows
from raysys.data.schema import FIRST_ITEM, PAD, UNKNOWN, Split
from raysys.errors import UserError
from raysys.evaluation.baselines.popularity import PopularityScorer
from raysys.evaluation.protocol import EvaluationConfig
from raysys.evaluation.ranking import Among, ModelScorer, ranking_metrics, recommend
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask

NUM_ITEMS = 12
DEPTHS = (1, 3, 5, 20)


# The oracle


def oracle(ranked: list[int], held_out: list[int], k: int) -> dict[str, float]:
    """Metrics of one user; an item that training never saw cannot be hit, and each such event counts."""
    wanted = list(dict.fromkeys(item for item in held_out if item != UNKNOWN)) + [i for i in held_out if i == UNKNOWN]
    hits = [place for place, item in enumerate(ranked[:k]) if item in wanted and item >= FIRST_ITEM]
    gain = sum(1 / math.log2(place + 2) for place in hits)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(wanted), k)))
    return {
        f"ndcg@{k}": gain / ideal,
        f"recall@{k}": len(hits) / len(wanted),
        f"hit_rate@{k}": float(bool(hits)),
        f"mrr@{k}": 1 / (hits[0] + 1) if hits else 0.0,
    }


def brute_force_list(scores: list[float], seen: set[int], k: int) -> list[int]:
    items = [item for item in range(FIRST_ITEM, FIRST_ITEM + NUM_ITEMS) if item not in seen]
    return sorted(items, key=lambda item: -scores[item - FIRST_ITEM])[:k]


# Metrics

item = st.integers(FIRST_ITEM, FIRST_ITEM + NUM_ITEMS - 1)
ranked_lists = st.lists(item, unique=True, max_size=NUM_ITEMS)
held_out_items = st.lists(st.just(UNKNOWN) | item, min_size=1, max_size=6)


def pairs_of(held_out: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array([row for row, items in enumerate(held_out) for _ in items], np.int64)
    return rows, np.array([item for items in held_out for item in items], np.int64)


@settings(max_examples=150)
@given(st.lists(st.tuples(ranked_lists, held_out_items), min_size=1, max_size=5), st.integers(0, 9))
def test_metrics_agree_with_the_oracle(users, seed):
    lists = np.full((len(users), NUM_ITEMS), PAD)
    for row, (ranked, _) in enumerate(users):
        lists[row, : len(ranked)] = ranked
    rows, relevant = pairs_of([held_out for _, held_out in users])
    order = np.random.default_rng(seed).permutation(len(rows))  # pairs may come in any order
    found = ranking_metrics(lists, rows[order], relevant[order], DEPTHS)
    for row, (ranked, held_out) in enumerate(users):
        for k in DEPTHS:
            for name, value in oracle(ranked, held_out, k).items():
                assert found[name][row] == pytest.approx(value, abs=1e-9), (name, ranked, held_out)


def test_one_held_out_item_by_hand():
    lists = np.array([[2, 3, 4], [2, 3, 4], [2, 3, 4], [2, 3, 4]])
    found = ranking_metrics(lists, np.array([0, 1, 2, 3]), np.array([2, 4, 9, UNKNOWN]), (2, 3))
    assert found["hit_rate@3"].tolist() == found["recall@3"].tolist() == [1, 1, 0, 0]
    assert found["hit_rate@2"].tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(found["ndcg@3"], [1, 0.5, 0, 0])
    np.testing.assert_allclose(found["mrr@3"], [1, 1 / 3, 0, 0])


def test_several_held_out_items_by_hand():
    found = ranking_metrics(np.array([[5, 2, 6, 3]]), np.zeros(4, int), np.array([2, 3, 7, 2]), (2, 4))
    assert found["recall@4"][0] == pytest.approx(2 / 3), "an item bought twice counts once"
    assert found["recall@2"][0] == pytest.approx(1 / 3)
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert found["ndcg@4"][0] == pytest.approx(gain / (1 + 1 / math.log2(3) + 1 / math.log2(4)))
    assert found["mrr@4"][0] == 0.5


def test_padding_and_unknown_items_are_never_hits():
    lists = np.array([[PAD, UNKNOWN, PAD]])
    found = ranking_metrics(lists, np.zeros(2, int), np.array([UNKNOWN, 5]), (3,))
    assert {name: values.tolist() for name, values in found.items()} == {name: [0.0] for name in found}


def test_a_user_without_held_out_items_has_no_hits():
    found = ranking_metrics(np.array([[2, 3], [2, 3]]), np.array([1]), np.array([2]), (2,))
    assert found["recall@2"].tolist() == [0, 1]


# Lists


def queries_of(histories: list[list[int]], held_out: list[list[int]] | None = None):
    held_out = held_out or [[] for _ in histories]
    items = [item for past, future in zip(histories, held_out, strict=True) for item in [*past, *future]]
    marks = [
        mark for past, future in zip(histories, held_out, strict=True) for mark in [0] * len(past) + [2] * len(future)
    ]
    rows = UserRows(
        offsets=np.cumsum([0, *(len(a) + len(b) for a, b in zip(histories, held_out, strict=True))]).astype(np.int64),
        items=np.array(items, np.int32),
        events=np.zeros(len(items), np.int8),
        times=np.zeros(len(items), np.int64),
        marks=np.array(marks, np.int8),
        labels={},
        users=np.arange(len(histories)),
    )
    return make_queries(rows, Split.TEST, np.array([True]), 5)


class TableScorer:
    """Scores that are given."""

    num_items = NUM_ITEMS

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores_BV = torch.tensor(scores, dtype=torch.float32)

    def ask(self, queries):
        return self.scores_BV

    def block(self, asked, start: int, stop: int):
        assert 0 <= start < stop <= NUM_ITEMS
        return asked[:, start:stop].clone()


scores_of_all = st.permutations(range(NUM_ITEMS)).map(lambda order: [float(value) for value in order])
histories_of_items = st.lists(st.just(UNKNOWN) | item, max_size=8)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(scores_of_all, histories_of_items), min_size=1, max_size=4), st.integers(1, 20), st.booleans()
)
def test_lists_are_the_best_items_that_the_user_has_not_had(users, k, exclude_seen):
    queries = queries_of([history for _, history in users])
    found = recommend(TableScorer([scores for scores, _ in users]), queries, k, exclude_seen)
    assert found.items_BK.shape == (len(users), min(k, NUM_ITEMS)), "k may be larger than the catalogue"
    for row, (scores, history) in enumerate(users):
        expected = brute_force_list(scores, set(history) if exclude_seen else set(), k)
        listed = found.items_BK[row].tolist()
        assert listed[: len(expected)] == expected
        assert set(listed[len(expected) :]) <= {PAD}
        kept = found.scores_BK[row, : len(expected)].tolist()
        assert kept == [scores[item - FIRST_ITEM] for item in expected]
        assert (found.scores_BK[row, len(expected) :] == -torch.inf).all()


@settings(max_examples=50)
@given(st.lists(st.tuples(scores_of_all, histories_of_items, held_out_items), min_size=1, max_size=4))
def test_lists_and_metrics_together_agree_with_the_oracle(users):
    queries = queries_of([history for _, history, _ in users], [held_out for *_, held_out in users])
    found = recommend(TableScorer([scores for scores, *_ in users]), queries, max(DEPTHS))
    metrics = ranking_metrics(
        found.items_BK.numpy(), queries.relevant_rows_N.numpy(), queries.relevant_items_N.numpy(), DEPTHS
    )
    for row, (scores, history, held_out) in enumerate(users):
        ranked = brute_force_list(scores, set(history), NUM_ITEMS)
        for k in DEPTHS:
            for name, value in oracle(ranked, held_out, k).items():
                assert metrics[name][row] == pytest.approx(value, abs=1e-6)


tied_scores = st.lists(st.sampled_from([-1.0, 0.0, -0.0, 2.5]), min_size=NUM_ITEMS, max_size=NUM_ITEMS)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(tied_scores | scores_of_all, histories_of_items), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, NUM_ITEMS + 1),
)
def test_blocks_of_any_size_give_the_same_lists_and_ties_rank_in_vocabulary_order(users, k, block):
    queries, scorer = queries_of([history for _, history in users]), TableScorer([scores for scores, _ in users])
    found = recommend(scorer, queries, k, block=block)
    whole = recommend(scorer, queries, k)
    assert torch.equal(found.items_BK, whole.items_BK)
    assert torch.equal(found.scores_BK, whole.scores_BK)
    for row, (scores, history) in enumerate(users):
        expected = brute_force_list(scores, set(history), k)  # sorted() is stable
        assert found.items_BK[row].tolist()[: len(expected)] == expected


def test_no_queries_have_no_lists():
    found = recommend(TableScorer([[0.0] * NUM_ITEMS]), queries_of([]), 4)
    assert found.items_BK.shape == found.scores_BK.shape == (0, 4)


def test_a_user_who_has_had_everything_gets_nothing():
    everything = list(range(FIRST_ITEM, FIRST_ITEM + NUM_ITEMS))
    found = recommend(TableScorer([[0.0] * NUM_ITEMS]), queries_of([everything]), 4)
    assert found.items_BK.tolist() == [[PAD] * 4]


def test_popularity_gives_everybody_the_most_popular_in_vocabulary_order_of_ties():
    popularity = np.array([0, 0, 3, 9, 3, 0, 9], np.float32)  # PAD and UNKNOWN first
    queries = queries_of([[], [3], [6, 6, UNKNOWN]])
    found = recommend(PopularityScorer(popularity), queries, 3)
    assert found.items_BK.tolist() == [[3, 6, 2], [6, 2, 4], [3, 2, 4]]


# The model's scorer


@pytest.fixture(scope="module")
def network() -> MultiTask:
    manifest = Manifest.model_construct(
        num_users=5,
        num_items=NUM_ITEMS,
        event_names=("buy",),
        history=("buy",),
        labels=("rating",),
        label_means={"rating": 3.0},
        time_range=None,
    )
    torch.manual_seed(0)
    model = build(ModelConfig, {"width": 8, "max_length": 5, "backbone": {"num_blocks": 1}}, "test")
    tasks = {"rating": TASKS["rating"].Config(), "next_item": TASKS["next_item"].Config()}
    return MultiTask(model, tasks, manifest).eval()


def scores_of(network, queries):
    scorer = ModelScorer(network)
    return scorer.block(scorer.ask(queries), 0, scorer.num_items)


@torch.inference_mode()
def test_the_model_scores_every_item_by_its_query(network):
    histories = [[2, 3, 4], [], [5] * 9, [UNKNOWN]]
    queries = queries_of(histories)
    scores = scores_of(network, queries)
    assert scores.shape == (4, NUM_ITEMS)
    encoded = network.recommender(queries.history)
    for row, history in enumerate(histories):
        length = min(len([item for item in history if item != UNKNOWN]), 5)
        state = encoded.states_BLD[row, length - 1] if length else encoded.start_BD[row]
        query = network.tasks["next_item"].scaled(state.unsqueeze(0))[0]
        for place in range(NUM_ITEMS):
            vector = encoded.items(torch.tensor([place + FIRST_ITEM]))[0]
            assert scores[row, place].item() == pytest.approx(float(query @ vector), abs=1e-5)
    alone = torch.cat([scores_of(network, queries_of([history])) for history in histories])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)


def test_the_task_that_retrieves_is_found_by_name_or_by_itself(network):
    assert network.retriever() is network.retriever("next_item")
    with pytest.raises(UserError, match="none of rating, next_item retrieves items"):
        ModelScorer(network, "rating")


@pytest.mark.parametrize("k", [(), (0,), (-1, 5), ("x",)])
def test_depths_are_positive(k):
    with pytest.raises(UserError, match=r"here: k"):
        build(EvaluationConfig, {"k": k}, "here")


@pytest.mark.parametrize("block", [1, 3, None])
def test_lists_among_some_items_are_the_whole_list_without_the_others(network, block):
    queries, allowed = queries_of([[2, 3, 4], [], [5] * 9]), [3, 5, 6, NUM_ITEMS + FIRST_ITEM - 1]
    every = recommend(ModelScorer(network), queries, NUM_ITEMS)
    some = recommend(Among(ModelScorer(network), torch.tensor(allowed)), queries, NUM_ITEMS, block=block)
    for row in range(3):
        expected = [item for item in every.items_BK[row].tolist() if item in allowed]
        found = some.items_BK[row].tolist()
        assert found == expected + [PAD] * (len(found) - len(expected))
        assert (some.scores_BK[row][len(expected) :] == -torch.inf).all()
