"""Every index gives the exact answer, or says how much of it; under filters, with exclusions, for one and for many."""

import numpy as np
import pytest
import torch

from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from serving.answers.retrieval import Retrieval
from serving.config import ServeConfig
from serving.index import INDEXES, Allowed, Asked, Products, make_index
from serving.index.approximate import Approximate, Flat16
from serving.index.auto import Auto

pytest.importorskip("faiss")
pytestmark = pytest.mark.thorough
NUM_ITEMS, WIDTH = 3000, 16


@pytest.fixture(scope="module")
def products():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, WIDTH, generator=generator)
    near = centres[torch.randint(40, (NUM_ITEMS,), generator=generator)]
    return Products(near + 0.5 * torch.randn(NUM_ITEMS, WIDTH, generator=generator))


@pytest.fixture(scope="module")
def queries(products):
    return products.table_ID[::30] + 0.2 * torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def indexes(products, queries):
    return {kind: make_index(part.Config(), products, lambda: queries) for kind, part in INDEXES.items()}


def brute(products, query, k, without=(), flags=None):
    scores = (products.table_ID @ query).numpy().copy()
    scores[[item - FIRST_ITEM for item in without]] = -np.inf
    if flags is not None:
        scores[~flags] = -np.inf
    order = np.argsort(-scores, kind="stable")[:k]
    return order[scores[order] > -np.inf] + FIRST_ITEM


SHARES = {"all": None, "most": 0.7, "half": 0.4, "few": 0.05, "five": 5 / NUM_ITEMS}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("kind", INDEXES)
def test_the_best_allowed_items_are_found_without_those_to_leave_out(indexes, products, queries, kind, batch, share):
    generator = np.random.default_rng(0)
    flags = None if SHARES[share] is None else generator.random(NUM_ITEMS) < SHARES[share]
    allowed = None if flags is None else Allowed.flagged(flags)
    best = [brute(products, query, 30) for query in queries[:batch]]
    without = [np.append(own[::2], FIRST_ITEM + 5).astype(np.int64) for own in best]
    found = indexes[kind].search(Asked(queries[:batch], without), 20, allowed)
    recalls = []
    for row in range(batch):
        expected = brute(products, queries[row], 20, without[row], flags)
        items = found.items_BK[row].numpy()
        items = items[found.scores_BK[row].numpy() > -np.inf]
        assert len(items) == len(expected)
        assert not set(items.tolist()) & set(without[row].tolist())
        assert flags is None or flags[items - FIRST_ITEM].all()
        exact = products.table_ID[items - FIRST_ITEM] @ queries[row]
        torch.testing.assert_close(found.scores_BK[row, : len(items)], exact)
        assert (exact.diff() <= 1e-6).all()
        recalls.append(np.isin(expected, items).mean() if len(expected) else 1.0)
    assert np.mean(recalls) >= (0.9 if kind == "approximate" else 0.99)
    if kind in ("exact", "auto"):
        assert np.mean(recalls) == 1


@pytest.mark.parametrize("kind", INDEXES)
def test_more_than_there_is_gives_all_there_is(indexes, queries, kind):
    without = [np.arange(FIRST_ITEM, FIRST_ITEM + 2990)]
    found = indexes[kind].search(Asked(queries[:1], without), 20)
    items = found.items_BK[0][found.scores_BK[0] > -torch.inf]
    assert sorted(items.tolist()) == list(range(FIRST_ITEM + 2990, FIRST_ITEM + NUM_ITEMS))


def test_nothing_is_found_where_nothing_is_allowed(indexes, queries):
    nothing = Allowed.flagged(np.zeros(NUM_ITEMS, bool))
    for index in indexes.values():
        found = index.search(Asked(queries[:2], [np.zeros(0, np.int64)] * 2), 5, nothing)
        assert not (found.scores_BK > -torch.inf).any()


def test_recall_is_measured_and_told(indexes, products, queries):
    assert indexes["exact"].describe() == {"kind": "exact", "items": NUM_ITEMS}
    told = indexes["flat16"].describe()
    assert told["recall"]["value"] > 0.99
    assert (told["recall"]["at"], told["recall"]["queries"]) == (100, 100)
    few = Approximate(Approximate.Config(probes=4), products, lambda: queries)
    assert few.recall.value < indexes["approximate"].recall.value
    everybody = Asked(queries, [np.zeros(0, np.int64)] * len(queries))
    found = [few.search(everybody.rows([row]), 100).items_BK[0].numpy() for row in range(len(queries))]
    expected = [np.isin(brute(products, q, 100), own).mean() for q, own in zip(queries, found, strict=True)]
    assert few.recall.value == pytest.approx(np.mean(expected))


def test_cells_are_looked_further_into_while_that_is_worth_it(products, queries):
    index, found = Approximate(Approximate.Config(cells=200, probes=4), products, lambda: queries), []
    while index.look_further():
        found.append((index.describe()["probes"], index.recall.value))
    assert [probes for probes, _ in found] == [8, 16]
    assert found[0][1] < found[1][1]


def test_auto_takes_what_is_fast_at_a_size_and_right(products, queries, monkeypatch):
    def kind(**settings):
        return Auto(Auto.Config(**settings), products, lambda: queries).describe()["kind"]

    assert kind() == "exact"
    assert kind(flat16_from=3000) == "flat16"
    assert kind(flat16_from=3001) == "exact"
    assert kind(flat16_from=1, approximate_from=3000, min_recall=0.5) == "approximate"
    assert kind(flat16_from=1, approximate_from=3000, min_recall=1.0) == "flat16"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kind(flat16_from=1) == "exact"


def test_without_faiss_its_kinds_are_refused(products, queries, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UserError, match=r"need faiss; `pip install raysys\[faiss\]`, or take exact"):
        Flat16(Flat16.Config(), products, lambda: queries)


@pytest.mark.parametrize("kind", ["flat16", "approximate"])
def test_a_run_is_measured_with_its_own_users(shop, orphan_run, kind):
    for run in (shop, orphan_run):
        index = Retrieval(run, ServeConfig(retrieval={"kind": kind})).index
        told = index.describe()["recall"]
        assert told["value"] > 0.99
        assert told["queries"] == (240 if run is shop else min(256, run.vocabulary.num_items))
