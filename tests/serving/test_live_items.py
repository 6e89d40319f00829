"""Items that are changed or withdrawn while replicas answer: filters, rules, titles and lists follow at once."""

import asyncio
import gc
import time

import pytest
from asgi import post
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from test_answers import ask, ids, refused
from test_answers import change_items as change

from serving.config import ServeConfig
from serving.endpoints import ENDPOINTS
from serving.http.gateway import Gateway
from serving.replica import Replica
from serving.service import Service
from serving.stores import StoreClosedError

pytestmark = pytest.mark.thorough
LISTS = [
    ("recommend", {"history": ["i2"], "k": 60, "exclude_seen": False}),
    ("recommend", {"history": [], "k": 60}),
    ("recommend", {"history": ["i2"], "k": 60, "score": {"click": 1}}),
    ("recommend", {"history": ["i2"], "k": 60, "diversity": 0.5, "explain": True}),
    ("recommend", {"history": ["i2"], "candidates": ["i3", "i5"], "k": 60}),
    ("recommend", {"history": ["i2"], "filters": {"brand": "acme"}, "k": 60}),
    ("similar", {"item_id": "i4", "k": 60}),
    ("similar", {"item_id": "i4", "k": 60, "by": "cosine"}),
    ("popular", {"k": 60}),
    ("popular", {"k": 60, "window": "90d"}),
    ("bundle", {"items": ["i4", "i6"], "k": 60}),
    ("rank", {"history": ["i2"], "items": ["i3", "i5"]}),
]


@pytest.fixture
def client(shop, serve, tmp_path):
    return TestClient(Gateway(serve(shop, tmp_path, k=5, k_max=60)), raise_server_exceptions=False)


def item(client, item_id):
    return client.get(f"/v1/items/{item_id}").json()


def test_a_withdrawn_item_is_in_no_list_until_it_is_restored(client):
    before = [ids(ask(client, path, **body)) for path, body in LISTS]
    assert all("i3" in own for own in before)
    answer = change(client, withdraw=["i3"])
    assert (answer["withdrawn"], answer["restored"], answer["changed"], answer["new"]) == (1, 0, 0, 0)
    for (path, body), own in zip(LISTS, before, strict=True):
        found = ask(client, path, **body)
        assert sorted(ids(found)) == sorted(one for one in own if one != "i3")
        assert found["unknown"] == (["i3"] if "candidates" in body or path == "rank" else [])
    assert item(client, "i3")["withdrawn"]
    assert change(client, restore=["i3"])["version"] > answer["version"]
    assert [ids(ask(client, path, **body)) for path, body in LISTS] == before
    assert client.delete("/v1/items/i3").status_code == 200
    assert "i3" not in ids(ask(client, "popular", k=60))


def test_other_items_are_like_a_withdrawn_one_and_it_is_read_in_histories(client):
    before = [ask(client, "similar", item_id="i3", k=8), ask(client, history=["i3"], k=8)]
    change(client, withdraw=["i3"])
    after = [ask(client, "similar", item_id="i3", k=8), ask(client, history=["i3"], k=8)]
    assert [ids(one) for one in after] == [ids(one) for one in before]


def test_filters_and_titles_follow(client):
    cheap = {"filters": {"price": {"at_most": 2}}, "history": [], "k": 60}
    assert sorted(ids(ask(client, **cheap))) == ["i0", "i1", "i2"]
    change(client, items=[{"item_id": "i40", "title": "On sale", "features": {"price": 1, "brand": "acme"}}])
    change(client, items=[{"item_id": "i1", "features": {"price": None}}])
    change(client, items=[{"item_id": "i59", "features": {"price": 0.5, "tags": ["odd", "last"]}}])
    found = ask(client, **cheap)
    assert sorted(ids(found)) == ["i0", "i2", "i40", "i59"]
    assert {one["item_id"]: one["title"] for one in found["items"]}["i40"] == "On sale"
    assert ids(ask(client, history=[], filters={"tags": "last"})) == ["i59"]
    assert "i40" in ids(ask(client, history=[], filters={"brand": "acme"}, k=60))
    shown = item(client, "i40")
    assert (shown["title"], shown["new"], shown["withdrawn"]) == ("On sale", False, False)
    assert shown["features"] == {"brand": "acme", "tags": ["even"], "price": 1.0, "stock": 0.0}
    assert shown["events"] > 0


def test_rules_follow(shop, serve, tmp_path):
    rules = [{"kind": "in_stock", "column": "stock"}, {"kind": "cap", "by": "brand", "most": 2}]
    client = TestClient(Gateway(serve(shop, tmp_path, k=5, k_max=60, rules=rules)), raise_server_exceptions=False)
    everything = {"history": [], "k": 60}
    assert "i0" not in ids(ask(client, "popular", k=60))
    change(client, items=[{"item_id": "i0", "features": {"stock": 3}}, {"item_id": "i1", "features": {"stock": 0}}])
    stocked = ids(ask(client, "popular", k=60))
    assert "i0" in stocked
    assert "i1" not in stocked
    assert len(ids(ask(client, **everything))) == 8
    change(client, items=[{"item_id": f"i{n}", "features": {"brand": f"own{n}"}} for n in range(2, 10)])
    assert len(ids(ask(client, **everything))) > 8


def test_a_run_that_knows_ids_alone_refuses_new_items(client):
    told = refused(client, "items", 409, items=[{"item_id": "new", "title": "New"}])
    assert "'new'" in told
    assert "text: {}" in told
    assert client.get("/v1/items/new").status_code == 404
    assert change(client, items=[{"item_id": "i1", "title": "New"}])["changed"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["items, withdraw or restore"]),
        ({"items": [{"item_id": "i1"}]}, ["title or features"]),
        (
            {"items": [{"item_id": "i1", "features": {"prise": 1}}]},
            ["items.0.features.prise", "'price'", "numbers: price"],
        ),
        ({"items": [{"item_id": "i1", "features": {"price": "low"}}]}, ["features.price", "a number is expected"]),
        ({"items": [{"item_id": "i1", "features": {"brand": ["a"]}}]}, ["features.brand", "a text is expected"]),
        ({"items": [{"item_id": "i1", "features": {"tags": 1}}]}, ["features.tags", "list of texts"]),
        ({"withdraw": ["i1"], "restore": ["i1"]}, ["'i1'", "one of them"]),
        ({"withdraw": [f"i{n}" for n in range(1001)]}, ["body.withdraw", "at most 1000 items", "1001"]),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_changed(client, body, words):
    told = refused(client, "items", **body)
    for word in words:
        assert word in told
    assert client.app.service.items.live.version == 0


def test_the_server_may_allow_fewer_at_once(shop, serve, tmp_path):
    client = TestClient(Gateway(serve(shop, tmp_path, k=5, k_max=60, limits={"items": 3})))
    told = refused(client, "items", withdraw=["i1", "i2"], restore=["i3", "i4"])
    assert "limits.items" in told
    assert "4" in told
    assert change(client, withdraw=["i1", "i2"], restore=["i3"])["withdrawn"] == 2


def test_nothing_is_known_of_others(client):
    assert client.get("/v1/items/nothing").status_code == 404
    assert client.delete("/v1/items/nothing").status_code == 404


def test_changes_need_an_admin_and_a_look_does_not():
    scopes = {name: ENDPOINTS[name].scope for name in ("items", "item", "withdraw_item")}
    assert scopes == {"items": "admin", "item": "read", "withdraw_item": "admin"}


async def _until(check, seconds=5.0):
    began = time.monotonic()
    while not await check():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def _popular(gateway):
    return [one["item_id"] for one in (await post(gateway, "/v1/popular", {"k": 60})).json["items"]]


def _config(shop, root):
    return ServeConfig(access={"enabled": False}, k=5, k_max=60).with_places(str(root), "tests").replica(str(shop.path))


def test_all_replicas_follow_within_a_second_and_one_that_starts_knows_all(shop, tmp_path):
    async def work():
        config = _config(shop, tmp_path).model_dump()
        replicas = [Replica(), Replica()]
        for one in replicas:
            await one.reconfigure(config)
        first, second = (one.__serve_build_asgi_app__() for one in replicas)
        assert "i3" in await _popular(second)
        assert (await post(first, "/v1/items", {"withdraw": ["i3"]})).status == 200
        assert "i3" not in await _popular(first)

        async def gone():
            return "i3" not in await _popular(second)

        assert await _until(gone) < 1
        third = Replica()
        await third.reconfigure(config)
        assert "i3" not in await _popular(third.__serve_build_asgi_app__())
        await replicas[1].reconfigure({**config, "k": 7})  # in place: the same store, another service
        assert "i3" not in await _popular(second)

    asyncio.run(work())


def test_a_store_that_closes_first_ends_the_following_without_a_fault(shop, tmp_path):
    async def work():
        said = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["message"]))
        store = {"kind": "embedded", "poll_items_s": 0.02}
        config = ServeConfig(access={"enabled": False}, store=store).with_places(str(tmp_path), "tests")
        service = await Service.load(config.replica(str(shop.path)).model_dump())
        await service.items.start()
        await service.store.close()
        await asyncio.sleep(0.2)
        assert service.problem() is None
        with pytest.raises(StoreClosedError):
            await service.store.items_since(0)
        service.close()
        del service
        gc.collect()  # what nobody asked a task for is told when the task goes
        await asyncio.sleep(0)
        assert not said

    asyncio.run(work())


VALUES = st.one_of(st.none(), st.floats(-5, 70, width=32), st.sampled_from(["acme", "new"]), st.lists(st.just("even")))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([f"i{n}" for n in range(8)] + ["?"]),
        st.dictionaries(
            st.sampled_from(["price", "brand", "tags", "stock", "nothing"]), VALUES, min_size=1, max_size=3
        ),
        max_size=3,
    ),
    st.sets(st.sampled_from([f"i{n}" for n in range(8)])),
    st.sets(st.sampled_from([f"i{n}" for n in range(8)])),
)
def test_whatever_is_posted_lists_hold_what_was_stored(shop_client, items, withdraw, restore):
    client = shop_client(limits={"items": 20})
    body = {
        "items": [{"item_id": name, "features": features} for name, features in items.items()],
        "withdraw": sorted(withdraw),
        "restore": sorted(restore),
    }
    before = {f"i{n}": item(client, f"i{n}") for n in range(8)}
    answer = client.post("/v1/items", json=body)
    assert answer.status_code in (200, 400, 409)
    after = {f"i{n}": item(client, f"i{n}") for n in range(8)}
    shown = {one: own["withdrawn"] for one, own in after.items()}
    if answer.status_code == 200:
        for name, own in after.items():
            assert own["withdrawn"] == (name in withdraw or (before[name]["withdrawn"] and name not in restore))
            assert own["features"].items() >= items.get(name, {}).items()
    else:
        assert {one: own["features"] for one, own in after.items()} == {o: w["features"] for o, w in before.items()}
    cheap = ids(ask(client, "popular", k=60, filters={"price": {"at_most": 3}}))
    for name, gone in shown.items():
        price = after[name]["features"]["price"]
        assert (name in cheap) == (not gone and price is not None and price <= 3)
