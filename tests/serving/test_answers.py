"""What a list may be made of: candidates, filters, context, weights, diversity, chance, reasons."""

import collections
import itertools

import numpy as np
import pytest
from shop_log import BLOCK, BRANDS, NUM_ITEMS

from raysys.errors import UserError
from serving.config import ServeConfig

pytestmark = pytest.mark.thorough


def ask(client, path="recommend", request_id=None, **body):
    headers = {} if request_id is None else {"x-request-id": request_id}
    answer = client.post(f"/v1/{path}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def change_items(client, **body):
    """Change, withdraw or restore items, and return what was counted."""
    answer = client.post("/v1/items", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


def refused(client, path="recommend", status=400, **body):
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


def number(item_id):
    return int(item_id[1:])


@pytest.fixture
def client(shop_client):
    return shop_client()


def everything(client, **body):
    return ask(client, k=60, exclude_seen=False, **body)


def test_slots_count_from_one_and_a_list_that_is_not_drawn_is_certain(client):
    items = ask(client, user_id="u3", k=7)["items"]
    assert [item["slot"] for item in items] == [1, 2, 3, 4, 5, 6, 7]
    assert {item["propensity"] for item in items} == {1.0}
    assert all(item["why"] is None for item in items)


def test_only_candidates_are_ranked_and_unknown_ones_are_told(client):
    whole = ids(everything(client, user_id="u3"))
    wanted = ["i7", "nothing", "i30", "i12", "i7", "?"]
    answer = ask(client, user_id="u3", candidates=wanted, exclude_seen=False, k=10)
    assert ids(answer) == [item for item in whole if item in wanted]
    assert answer["unknown"] == ["nothing", "?"]
    assert ids(ask(client, user_id="u3", candidates=["?"])) == []


def test_candidates_score_as_they_do_in_the_whole_catalogue(client):
    for body in ({"user_id": "u3"}, {"history": ["i1", "i2"]}, {"history": []}):
        whole = {item["item_id"]: item for item in everything(client, **body)["items"]}
        for item in ask(client, candidates=["i9", "i41"], exclude_seen=False, **body)["items"]:
            other = whole[item["item_id"]]
            assert item["score"] == pytest.approx(other["score"], rel=1e-4)
            assert item["scores"] == pytest.approx(other["scores"], rel=1e-3)


def passing(filters):
    for item in range(NUM_ITEMS - 1):
        brand, price, tags = BRANDS[item // BLOCK], item, {"even" if item % 2 == 0 else "odd"}
        tags |= {"third"} if item % 3 == 0 else set()
        if "brand" in filters and brand not in np.atleast_1d(filters["brand"]):
            continue
        if "tags" in filters and tags.isdisjoint(np.atleast_1d(filters["tags"])):
            continue
        bounds = filters.get("price", {})
        if bounds.get("at_least", -1) <= price <= bounds.get("at_most", 1000):
            yield f"i{item}"


@pytest.mark.parametrize(
    "filters",
    [
        {"brand": ["acme", "dash"]},
        {"brand": "bolt"},
        {"brand": ["bolt", "no such brand"]},
        {"tags": ["third"]},
        {"tags": ["even", "third"], "brand": ["core"]},
        {"price": {"at_least": 5, "at_most": 9}},
        {"price": {"at_most": 3}},
        {"price": {"at_least": 57.5}},
        {"price": {"at_least": 1, "at_most": 40}, "tags": "odd"},
        {"brand": "no such brand"},
    ],
)
def test_filters_leave_the_order_of_what_passes(client, filters):
    for body in ({"user_id": "u3"}, {"history": []}):
        whole = ids(everything(client, **body))
        expected = [item for item in whole if item in set(passing(filters))]
        assert ids(everything(client, filters=filters, **body)) == expected
        narrow = ask(client, filters=filters, k=3, exclude_seen=False, **body)
        assert ids(narrow) == expected[:3]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"filters": {"color": ["red"]}}, "body.filters.color: items have no category of this name (categories: brand"),
        ({"filters": {"brand": {"at_least": 1}}}, "numbers: price, stock"),
        ({"filters": {"price": ["1"]}}, "body.filters.price: items have no category"),
        ({"filters": {"price": {}}}, "at_least, at_most or both"),
        ({"filters": {"price": {"at_least": "1"}}}, "body.filters.price"),
        ({"filters": {"price": 3}}, "body.filters.price: a value, a list of values, or bounds"),
        ({"filters": {"brand": []}}, "body.filters.brand"),
        ({"context": {"tob": "1"}}, "body.context.tob: events have no category of this name; did you mean"),
        ({"context": {"tab": 1}}, "body.context.tab: events have no number"),
        ({"score": {"clik": 1}}, "body.score.clik: no task"),
        ({"score": {"clik": 1}}, "there are: next_item, click"),
        ({"score": {"click": 0}}, "body.score: give a weight other than 0"),
        ({"score": {}}, "body.score"),
        ({"diversity": 1.5}, "body.diversity"),
        ({"candidates": []}, "body.candidates"),
        ({"candidates": ["i1"] * 601}, "body.candidates: at most 600"),
        ({"k": 61}, "body.k: at most 60"),
    ],
)
def test_what_the_run_does_not_have_is_refused_and_told(client, body, told):
    assert told in refused(client, user_id="u3", **body)


def test_the_moment_changes_what_tasks_predict(client):
    def clicks(**more):
        return np.mean([item["scores"]["click"] for item in ask(client, user_id="u3", k=20, **more)["items"]])

    assert clicks(context={"tab": "1"}) > clicks() > clicks(context={"tab": "0"})
    assert clicks(context={"tab": "1"}) > clicks(context={"tab": "0"}) + 0.2
    assert clicks(context={"tab": "a value that never was"}) == pytest.approx(clicks())


def test_weights_order_by_what_tasks_predict(client):
    plain = everything(client, user_id="u3")["items"]
    by_click = everything(client, user_id="u3", score={"click": 1})["items"]
    expected = sorted((item["scores"]["click"] for item in plain), reverse=True)
    assert [item["score"] for item in by_click] == pytest.approx(expected, rel=1e-4)
    assert [item["score"] for item in by_click] == pytest.approx([i["scores"]["click"] for i in by_click], rel=1e-6)


def test_the_retrieval_task_counts_by_its_probability_among_the_candidates(client):
    plain = everything(client, user_id="u3")["items"]
    logits = np.array([item["score"] for item in plain])
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    clicks = [item["scores"]["click"] for item in plain]
    final = {item["item_id"]: 0.7 * share + 0.3 * c for item, share, c in zip(plain, shares, clicks, strict=True)}
    mixed = everything(client, user_id="u3", score={"next_item": 0.7, "click": 0.3})["items"]
    assert {item["item_id"]: item["score"] for item in mixed} == pytest.approx(final, rel=1e-3)
    assert [i["score"] for i in mixed] == sorted((i["score"] for i in mixed), reverse=True)
    alone = ask(client, user_id="u3", score={"next_item": 2.0}, k=20)
    assert ids(alone) == ids(ask(client, user_id="u3", k=20))


def test_popularity_takes_the_place_of_the_retrieval_task_for_whom_nobody_knows(client):
    plain = everything(client, history=[])["items"]
    total = sum(item["score"] for item in plain)
    mixed = everything(client, history=[], score={"next_item": 1})["items"]
    assert [i["score"] for i in mixed] == pytest.approx([i["score"] / total for i in plain])
    assert ids({"items": mixed}) == ids({"items": plain})


def test_a_batch_is_encoded_once_however_many_tasks_make_its_scores(client, shop, encoded_users):
    every = dict.fromkeys((shop.network.retrieving()[0], *shop.network.pair_scorers()), 1.0)
    ask(client, "recommend/batch", requests=[{"user_id": user, "score": every} for user in ("u1", "u2")])
    assert encoded_users == [2]


def test_the_config_gives_weights_where_the_request_does_not(shop_client):
    client = shop_client(ranking={"score": {"click": 1}})
    assert ids(ask(client, user_id="u3")) == ids(ask(shop_client(), user_id="u3", score={"click": 1}))
    with_own = ask(client, user_id="u3", score={"next_item": 1})
    assert ids(with_own) == ids(ask(shop_client(), user_id="u3"))


def test_a_config_that_the_run_cannot_fulfil_is_refused(shop, serve, tmp_path):
    with pytest.raises(UserError, match=r"ranking\.score\.clikc: no task .* did you mean 'click'"):
        serve(shop, tmp_path, ranking={"score": {"clikc": 1}})


def test_scores_are_left_out_on_request(client):
    assert all(item["scores"] == {} for item in ask(client, user_id="u3", scores=False)["items"])
    by_click = ask(client, user_id="u3", scores=False, score={"click": 1})
    assert ids(by_click) == ids(ask(client, user_id="u3", score={"click": 1}))


def test_diversity_spreads_a_list_over_the_catalogue(client, shop):
    vectors = shop.network.recommender.vectors().table().detach().numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # a new array: the old one is the weights

    def likeness(answer):
        own = vectors[shop.vocabulary.lookup(ids(answer)) - 2]
        return np.mean([one @ other for one, other in itertools.combinations(own, 2)])

    users = [f"u{n}" for n in range(12)]
    levels = [
        np.mean([likeness(ask(client, user_id=user, k=8, diversity=d)) for user in users]) for d in (0, 0.3, 0.6, 1)
    ]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > levels[2] + 0.2
    assert ids(ask(client, user_id="u3", diversity=0)) == ids(ask(client, user_id="u3"))
    for user in users:
        assert ids(ask(client, user_id=user, diversity=0.5))[0] == ids(ask(client, user_id=user))[0]


def test_a_diverse_list_is_the_greedy_one(client, shop):
    vectors = shop.network.recommender.vectors().table().detach().numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # a new array: the old one is the weights
    plain = ask(client, user_id="u3", k=60)["items"]
    scores = np.array([item["score"] for item in plain])
    relevance = (scores - scores.min()) / np.ptp(scores)
    own = vectors[shop.vocabulary.lookup([item["item_id"] for item in plain]) - 2]
    chosen = []
    for _ in range(10):
        nearest = own @ own[chosen].T if chosen else np.full((len(own), 1), -1.0)
        value = 0.6 * relevance - 0.4 * nearest.max(axis=1)
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
    assert ids(ask(client, user_id="u3", k=10, diversity=0.4)) == [plain[at]["item_id"] for at in chosen]


def test_drawn_lists_come_as_often_as_their_propensities_say(shop_client):
    client = shop_client(ranking={"exploration": {"temperature": 0.2}})
    first, pairs, told = collections.Counter(), collections.Counter(), {}
    count = 3000
    for draw in range(count):
        answer = ask(client, request_id=f"draw-{draw}", history=["i3", "i4"], k=2, scores=False)
        one, two = answer["items"]
        told[one["item_id"],] = one["propensity"]
        told[one["item_id"], two["item_id"]] = one["propensity"] * two["propensity"]
        first[one["item_id"],] += 1
        pairs[one["item_id"], two["item_id"]] += 1
    for counted in (first, pairs):
        for key, times in counted.items():
            expected = told[key] * count
            assert abs(times - expected) <= 4.5 * (expected * (1 - told[key])) ** 0.5 + 1.5, key
    assert sum(told[key] for key in first) == pytest.approx(1, abs=0.02)  # what never came is improbable
    assert len(first) > 3


def test_a_request_id_names_one_draw(shop_client):
    client = shop_client(ranking={"exploration": {"temperature": 0.2}})
    lists = {tuple(ids(ask(client, request_id="mine", user_id="u3"))) for _ in range(3)}
    assert len(lists) == 1
    assert len({tuple(ids(ask(client, user_id="u3"))) for _ in range(10)}) > 1


def test_a_batch_answers_as_single_requests_do(client):
    bodies = [
        {"user_id": "u3", "k": 4},
        {"history": [], "k": 7},
        {"history": ["i1"], "filters": {"brand": "acme"}},
        {"user_id": "u9", "score": {"click": 1}, "context": {"tab": "1"}},
        {"user_id": "u9", "diversity": 0.5, "explain": True},
        {"history": ["i50", "i51"], "candidates": ["i52", "i3"]},
    ]
    answer = ask(client, "recommend/batch", request_id="b", requests=bodies)
    assert [one["request_id"] for one in answer["answers"]] == [f"b-{place}" for place in range(len(bodies))]
    for one, body in zip(answer["answers"], bodies, strict=True):
        alone = ask(client, **body)
        assert ids(one) == ids(alone)
        assert one["source"] == alone["source"]
        np.testing.assert_allclose([i["score"] for i in one["items"]], [i["score"] for i in alone["items"]], rtol=1e-3)


def test_a_batch_is_refused_with_the_place_of_what_is_wrong(client):
    wrong = [{"user_id": "u3"}, {"user_id": "u3", "filters": {"nix": "1"}}]
    assert "body.requests.1.filters.nix" in refused(client, "recommend/batch", requests=wrong)
    assert "body.requests.0.k" in refused(client, "recommend/batch", requests=[{"user_id": "u3", "k": 99}])
    assert "at most 32" in refused(client, "recommend/batch", requests=[{"user_id": "u3"}] * 33)
    assert "body.requests" in refused(client, "recommend/batch", requests=[])


def test_reasons_are_what_deleting_the_event_does(client):
    history = [f"i{n}" for n in (3, 4, 5, 40, 6)]
    for score in ({}, {"score": {"click": 0.5, "next_item": 0.5}}):
        candidates = {"candidates": [f"i{n}" for n in range(NUM_ITEMS)], "exclude_seen": False, "k": 5, **score}
        answer = ask(client, history=history, explain=True, **candidates)
        for item in answer["items"]:
            for why in item["why"]:
                left = [event for event in history if event != why["item_id"]]
                again = ask(client, history=left, **{**candidates, "k": 60})["items"]
                after = next(one["score"] for one in again if one["item_id"] == item["item_id"])
                assert item["score"] - after == pytest.approx(why["effect"], abs=1e-4)
                assert why["effect"] > 0


def test_deleting_the_reason_lowers_the_score_more_than_deleting_any_event(client, shop_client):
    generator = np.random.default_rng(0)
    advantages = []
    for user in range(80):
        start, brand = int(generator.integers(BLOCK)), user % 3
        history = [f"i{brand * BLOCK + (start + step) % BLOCK}" for step in range(7)]
        top = ask(client, history=history, explain=True, k=1)["items"][0]

        def after(deleted, history=history, top=top):
            left = [event for event in history if event != deleted]
            return ask(client, history=left, candidates=[top["item_id"]], scores=False)["items"][0]["score"]

        if top["why"]:
            at_random = generator.choice([event for event in history if event != top["why"][0]["item_id"]])
            advantages.append(after(at_random) - after(top["why"][0]["item_id"]))
    assert len(advantages) >= 70
    error = np.std(advantages, ddof=1) / len(advantages) ** 0.5
    assert np.mean(advantages) > 5 * error
    assert np.mean(np.array(advantages) >= -1e-4) == 1.0  # the reason moved it most, so no other one moves it more


def test_of_popularity_there_are_no_reasons(client):
    assert all(item["why"] == [] for item in ask(client, history=[], explain=True)["items"])


def test_a_history_of_one_is_explained(client):
    items = ask(client, history=["i3"], explain=True)["items"]
    assert items[0]["why"][0]["item_id"] == "i3"


def test_the_defaults_are_written_down():
    config = ServeConfig()
    assert config.ranking.exploration is None
    assert config.rules == ()
    assert ServeConfig.model_validate(config.model_dump()) == config
