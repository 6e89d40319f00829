"""rank, similar, popular, bundle."""

import json

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop_log import BLOCK
from starlette.testclient import TestClient
from test_answers import ask, ids, number, refused

from raysys.data.batches import make_queries
from raysys.data.reader import history_rows
from raysys.data.schema import FIRST_ITEM, Split
from raysys.evaluation.ranking import ModelScorer, recommend
from serving.http.gateway import Gateway

pytestmark = pytest.mark.thorough


@pytest.fixture
def client(shop_client):
    return shop_client()


def test_rank_gives_every_value_of_every_task(client):
    wanted = ["i4", "i44", "?", "i20", "i5"]
    answer = ask(client, "rank", history=["i2", "i3"], items=wanted)
    assert answer["unknown"] == ["?"]
    plain = {i["item_id"]: i for i in ask(client, history=["i2", "i3"], k=60, exclude_seen=False)["items"]}
    assert set(ids(answer)) == {"i4", "i44", "i20", "i5"}
    for item in answer["items"]:
        assert set(item["scores"]) == {"next_item", "click"}
        assert item["scores"]["next_item"] == pytest.approx(plain[item["item_id"]]["score"], rel=1e-4)
        assert item["scores"]["click"] == pytest.approx(plain[item["item_id"]]["scores"]["click"], rel=1e-3)
    assert [i["score"] for i in answer["items"]] == sorted((i["score"] for i in answer["items"]), reverse=True)
    assert [i["slot"] for i in answer["items"]] == [1, 2, 3, 4]


def test_rank_takes_weights_context_and_reasons(client):
    body = {"history": ["i2", "i3"], "items": ["i4", "i44"], "context": {"tab": "1"}}
    answer = ask(client, "rank", score={"click": 2}, explain=True, **body)
    for item in answer["items"]:
        assert item["score"] == pytest.approx(2 * item["scores"]["click"], rel=1e-5)
        assert isinstance(item["why"], list)
    other = ask(client, "rank", **{**body, "context": {"tab": "0"}})
    assert other["items"][0]["scores"]["click"] < answer["items"][0]["scores"]["click"]


def test_rank_scores_seen_items_and_whom_nobody_knows(client, shop):
    assert ids(ask(client, "rank", history=["i2"], items=["i2"])) == ["i2"]
    answer = ask(client, "rank", user_id="nobody", items=["i2", "i3"])
    assert answer["source"] == "popularity"
    for item in answer["items"]:
        at = shop.vocabulary.lookup([item["item_id"]])[0]
        assert item["scores"]["next_item"] == shop.catalog.popularity[at]


def test_rank_refuses_too_many_and_unknown_parts(client):
    assert "at most 600" in refused(client, "rank", user_id="u1", items=["i1"] * 601)
    assert "body.items" in refused(client, "rank", user_id="u1", items=[])
    assert "body.context.x" in refused(client, "rank", user_id="u1", items=["i1"], context={"x": 1})
    assert "body.score.x" in refused(client, "rank", user_id="u1", items=["i1"], score={"x": 1})


def test_similar_items_are_those_of_the_task(client, shop):
    scorer = ModelScorer(shop.network, "similar_item")
    for item in ("i3", "i40"):
        rows = history_rows([shop.vocabulary.lookup([item])])
        found = recommend(scorer, make_queries(rows, Split.NONE, np.array([True]), 16), 8)
        answer = ask(client, "similar", item_id=item, k=8)
        assert ids(answer) == shop.vocabulary.decode(found.items_BK[0].numpy()).to_pylist()
        assert item not in ids(answer)
    near = [ids(ask(client, "similar", item_id=f"i{n}", k=3)) for n in range(1, 14)]
    assert np.mean([number(i) < BLOCK for own in near for i in own]) > 0.8


def test_similar_items_by_cosine(client, shop):
    vectors = torch.nn.functional.normalize(shop.network.recommender.vectors().table().detach(), dim=-1).numpy()
    at = shop.vocabulary.lookup(["i3"])[0] - FIRST_ITEM
    cosines = vectors @ vectors[at]
    answer = ask(client, "similar", item_id="i3", k=60, by="cosine")
    assert len(answer["items"]) == len(vectors) - 1
    for item in answer["items"]:
        own = shop.vocabulary.lookup([item["item_id"]])[0] - FIRST_ITEM
        assert item["score"] == pytest.approx(cosines[own], abs=1e-5)


def test_similar_takes_filters_and_refuses_what_is_not_there(client):
    whole = ids(ask(client, "similar", item_id="i3", k=60))
    filtered = ids(ask(client, "similar", item_id="i3", k=60, filters={"brand": "dash"}))
    assert filtered == [i for i in whole if 3 * BLOCK <= number(i) < 4 * BLOCK - 1]
    assert "knows no item 'nix'" in refused(client, "similar", 404, item_id="nix")
    assert "by similar_item, cosine" in refused(client, "similar", item_id="i3", by="click")


def test_a_run_without_such_tasks_compares_vectors(tiny_run, serve, tmp_path):
    client = TestClient(Gateway(serve(tiny_run, tmp_path)))
    by_default = ask(client, "similar", item_id="i3")
    assert by_default["items"] == ask(client, "similar", item_id="i3", by="cosine")["items"]
    basket = ask(client, "bundle", items=["i3"])
    assert ids(basket) == ids(by_default)


def test_a_basket_is_completed_by_the_task(client, shop):
    answer = ask(client, "bundle", items=["i3", "?", "i4"], k=8)
    assert answer["unknown"] == ["?"]
    assert set(ids(answer)).isdisjoint({"i3", "i4"})
    rows = history_rows([shop.vocabulary.lookup(["i3", "i4"])])
    found = recommend(ModelScorer(shop.network, "bundle"), make_queries(rows, Split.NONE, np.array([True]), 16), 8)
    assert ids(answer) == shop.vocabulary.decode(found.items_BK[0].numpy()).to_pylist()
    assert ids(ask(client, "bundle", items=["i4", "i3"], k=8)) == ids(answer)
    assert "knows none" in refused(client, "bundle", 404, items=["?", "!"])


def expected_counts(folder, days):
    views = pd.read_parquet(folder / "views.parquet")
    purchases = pd.read_parquet(folder / "purchases.parquet")
    last = max(views.time.max(), purchases.time.max())
    return views[(last - views.time) < days * 86_400_000].item_id.value_counts()


@pytest.mark.parametrize("days", [1, 3, 7, 90])
def test_popularity_of_a_window_counts_the_last_days(client, shop, days):
    counts = expected_counts(shop.path.parents[2], days)
    known = set(shop.vocabulary.item_ids.to_pylist())
    expected = {item: float(count) for item, count in counts.items() if item in known}
    answer = ask(client, "popular", window=f"{days}d", k=60)
    assert answer["source"] == "popularity"
    assert {i["item_id"]: i["score"] for i in answer["items"]} == expected
    assert [i["score"] for i in answer["items"]] == sorted(expected.values(), reverse=True)


def test_popularity_of_all_of_training_and_of_a_brand(client, shop):
    answer = ask(client, "popular", k=60)
    assert answer["items"][0]["score"] == shop.catalog.popularity.max()
    brand = ask(client, "popular", k=60, filters={"brand": "acme"})
    assert ids(brand) == [i for i in ids(answer) if number(i) < BLOCK]
    assert ids(ask(client, "popular", k=3, window="36h")) == ids(ask(client, "popular", k=3, window="2d"))


def test_windows_are_refused_where_they_cannot_be_counted(client, orphan_run, serve, tmp_path):
    for window in ("0d", "91d", "week", 7):
        assert "body.window" in refused(client, "popular", window=window)
    orphan = TestClient(Gateway(serve(orphan_run, tmp_path)))
    assert "leave it out" in refused(orphan, "popular", 409, window="7d")
    assert ask(orphan, "popular")["items"]


TEXTS = st.sampled_from(["i1", "i2", "?", "", "brand", "price", "tab", "click", "next_item", "acme", "1", "7d"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 70), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
FILTERS = st.dictionaries(
    TEXTS, st.one_of(TEXTS, st.lists(TEXTS), st.dictionaries(st.sampled_from(["at_least", "at_most"]), VALUES))
)
KEYS = {
    "user_id": st.one_of(st.sampled_from(["u1", "?"]), VALUES),
    "history": st.one_of(st.lists(TEXTS), VALUES),
    "k": st.one_of(st.integers(1, 60), VALUES),
    "candidates": st.one_of(st.lists(TEXTS), VALUES),
    "items": st.one_of(st.lists(TEXTS), VALUES),
    "item_id": st.one_of(TEXTS, VALUES),
    "filters": st.one_of(FILTERS, VALUES),
    "context": st.one_of(st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers())), VALUES),
    "score": st.one_of(st.dictionaries(TEXTS, st.floats(-1e3, 1e3)), VALUES),
    "scores": VALUES,
    "diversity": st.one_of(st.floats(0, 1), VALUES),
    "explain": st.one_of(st.booleans(), VALUES),
    "exclude_seen": st.booleans(),
    "window": st.one_of(st.sampled_from(["1d", "5h"]), VALUES),
    "by": st.one_of(st.sampled_from(["cosine", "similar_item"]), VALUES),
}
LIST = ("user_id", "history", "k", "candidates", "filters", "context")
OWN = {
    "recommend": (*LIST, "score", "scores", "diversity", "explain", "exclude_seen"),
    "rank": ("user_id", "history", "items", "context", "score", "explain"),
    "similar": ("item_id", "k", "by", "filters"),
    "popular": ("k", "window", "filters"),
    "bundle": ("items", "k", "filters"),
}


@st.composite
def requests(draw):
    path = draw(st.sampled_from(sorted(OWN)))
    names = draw(st.lists(st.sampled_from(OWN[path]), unique=True, max_size=5))
    return path, {name: draw(KEYS[name]) for name in names}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests())
def test_no_body_breaks_an_endpoint(client, request):
    path, body = request
    content = httpx.Request("POST", "http://test", content=json.dumps(body)).content
    answer = client.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        assert answer.status_code in (400, 404), (body, answer.text)
        assert answer.json()["error"]["code"] in ("bad_request", "not_found")
        return
    items = answer.json()["items"]
    assert [item["slot"] for item in items] == list(range(1, len(items) + 1))
    assert len({item["item_id"] for item in items}) == len(items)
    assert all(np.isfinite(item["score"]) and item["propensity"] == 1 for item in items)
