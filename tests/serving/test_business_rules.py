"""Business rules: each keeps what it says, no list is shorter than it must be, and wrong ones are refused at load."""

import time

import pytest
from shop_log import BLOCK, BRANDS, NUM_ITEMS
from test_answers import ask, ids, number

from raysys.errors import UserError
from serving.config import ServeConfig
from serving.stores import NewEvent
from serving.users.state import StoredEvent

pytestmark = pytest.mark.thorough
USERS = [f"u{n}" for n in range(10)]


def brand(item_id):
    return BRANDS[number(item_id) // BLOCK] if number(item_id) < NUM_ITEMS - 1 else None


def test_only_what_is_in_stock_is_shown(shop_client):
    client, plain = shop_client(rules=[{"kind": "in_stock", "column": "stock", "at_least": 2}]), shop_client()
    for user in USERS:
        expected = [i for i in ids(ask(plain, user_id=user, k=60)) if number(i) % 5 >= 2 and brand(i)]
        assert ids(ask(client, user_id=user, k=60)) == expected
    for path, body in (("similar", {"item_id": "i3"}), ("bundle", {"items": ["i3", "i4"]}), ("popular", {})):
        assert all(number(i) % 5 >= 2 for i in ids(ask(client, path, k=60, **body)))
    assert len(ask(client, "rank", user_id="u3", items=["i1", "i5", "i2"])["items"]) == 3
    within = ask(client, user_id="u3", filters={"brand": "acme"}, exclude_seen=False, k=60)
    assert {number(i) for i in ids(within)} == {n for n in range(BLOCK) if n % 5 >= 2}


def test_stock_may_be_a_category(shop_client):
    client = shop_client(rules=[{"kind": "in_stock", "column": "tags", "values": ["third"]}])
    assert all(number(i) % 3 == 0 for i in ids(ask(client, user_id="u3", k=60)))


def test_no_more_of_a_brand_than_the_cap_and_the_best_of_each(shop_client):
    client, plain = shop_client(rules=[{"kind": "cap", "by": "brand", "most": 2}]), shop_client()
    for user in USERS:
        counts, expected = dict.fromkeys(BRANDS, 0), []
        for item in ids(ask(plain, user_id=user, k=60)):
            if brand(item) is None or counts[brand(item)] < 2:
                expected.append(item)
                counts[brand(item)] = counts.get(brand(item), 0) + 1
        assert ids(ask(client, user_id=user, k=8)) == expected[:8]
        assert ids(ask(client, user_id=user, k=60)) == expected


def test_a_cap_counts_every_value_of_a_list(shop_client):
    client = shop_client(rules=[{"kind": "cap", "by": "tags", "most": 1}])
    found = [i for i in ids(ask(client, user_id="u3", k=60)) if brand(i)]
    values = [{"even" if number(i) % 2 == 0 else "odd"} | ({"third"} if number(i) % 3 == 0 else set()) for i in found]
    flat = [value for own in values for value in own]
    assert len(flat) == len(set(flat))


def test_rules_do_not_shorten_a_list_while_there_are_candidates(shop_client):
    ranking = {"candidates": 1}
    client = shop_client(rules=[{"kind": "cap", "by": "brand", "most": 1}], ranking=ranking)
    found = ask(client, user_id="u3", k=4)
    assert len({brand(i) for i in ids(found)}) == 4


@pytest.mark.parametrize("slot", [1, 3, 5])
def test_pinned_items_stand_in_their_slots(shop_client, slot):
    client, plain = shop_client(rules=[{"kind": "pin", "items": ["i58", "i57"], "slot": slot}]), shop_client()
    for user in USERS:
        whole = ids(ask(plain, user_id=user, k=60))
        pinned = [i for i in ("i58", "i57") if i in whole]
        others = [i for i in whole if i not in pinned]
        expected = (others[: slot - 1] + pinned + others[slot - 1 :])[:6]
        assert ids(ask(client, user_id=user, k=6)) == expected
    assert set(ids(ask(client, user_id="u3", k=6, filters={"brand": "acme"}))).isdisjoint({"i57", "i58"})
    assert "i58" not in ids(ask(client, history=["i58"], k=6))


def test_a_pin_beyond_the_list_changes_nothing_and_in_a_short_list_it_comes_last(shop_client):
    client, plain = shop_client(rules=[{"kind": "pin", "items": ["i58"], "slot": 7}]), shop_client()
    assert ids(ask(client, user_id="u3", k=6)) == ids(ask(plain, user_id="u3", k=6))
    few = {"candidates": ["i58", "i1", "i2"], "history": ["i3"], "k": 10}
    assert ids(ask(client, **few))[-1] == "i58"
    assert len(ids(ask(client, **few))) == 3


def test_two_pins_of_one_slot_stand_beside_each_other(shop_client):
    rules = [{"kind": "pin", "items": ["i58"], "slot": 2}, {"kind": "pin", "items": ["i40"], "slot": 2}]
    assert ids(ask(shop_client(rules=rules), history=["i3"], k=5))[1:3] == ["i58", "i40"]


def test_pins_are_certain_in_drawn_lists_and_have_their_scores(shop_client):
    settings = {"rules": [{"kind": "pin", "items": ["i58"], "slot": 2}], "ranking": {"exploration": {"temperature": 1}}}
    items = ask(shop_client(**settings), history=["i3"], k=4)["items"]
    assert items[1]["item_id"] == "i58"
    assert items[1]["propensity"] == 1
    assert all(0 < item["propensity"] < 1 for item in (items[0], items[2], items[3]))
    plain = {i["item_id"]: i["score"] for i in ask(shop_client(), history=["i3"], k=60)["items"]}
    assert items[1]["score"] == pytest.approx(plain["i58"], rel=1e-4)


def test_what_was_bought_lately_stays_out(shop, serve, tmp_path):
    import asyncio

    from starlette.testclient import TestClient

    from serving.http.gateway import Gateway

    rules = [{"kind": "exclude_recent", "event": "purchase", "within": "30d"}]
    service = serve(shop, tmp_path, k_max=60, rules=rules)
    now, day = int(time.time() * 1000), 86_400_000
    bought = [("i1", now - 2 * day), ("i2", now - 40 * day), ("i3", now - 29 * day)]
    events = [StoredEvent(item, "purchase", at) for item, at in bought]
    viewed = [StoredEvent(f"i{n}", "view", now) for n in (4, 5)]
    new = [NewEvent("buyer", f"e{at}", event) for at, event in enumerate([*events, *viewed])]
    asyncio.run(service.store.append(new))
    client = TestClient(Gateway(service))
    found = set(ids(ask(client, user_id="buyer", k=60)))
    assert {"i2"} <= found
    assert found.isdisjoint({"i1", "i3", "i4", "i5"})
    kept = set(ids(ask(client, user_id="buyer", k=60, exclude_seen=False)))
    assert {"i2", "i4", "i5"} <= kept
    assert kept.isdisjoint({"i1", "i3"})


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (
            {"kind": "in_stock", "column": "stok"},
            r"rules\.1\.column: items have no number 'stok'; did you mean 'stock'",
        ),
        ({"kind": "in_stock", "column": "brand"}, "for a category give its values"),
        ({"kind": "in_stock", "column": "price", "values": ["x"]}, "no category 'price'"),
        ({"kind": "cap", "by": "brnd", "most": 2}, r"rules\.1\.by: .* did you mean 'brand'"),
        ({"kind": "pin", "items": ["i1", "nothing"]}, r"rules\.1\.items: the run knows no item 'nothing'"),
        ({"kind": "exclude_recent", "event": "buy"}, r"rules\.1\.event: no event 'buy'.*\(it has: .*purchase"),
    ],
)
def test_a_rule_that_the_run_cannot_keep_is_refused_at_load(shop, serve, tmp_path, rule, told):
    with pytest.raises(UserError, match=told):
        serve(shop, tmp_path, rules=[{"kind": "cap", "by": "brand", "most": 2}, rule])


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"kind": "capp"}, "did you mean 'cap'"),
        ({"kind": "cap", "by": "brand", "most": 0}, "most"),
        ({"kind": "pin", "items": []}, "items"),
        ({"kind": "exclude_recent", "event": "purchase", "within": 90}, "is no duration"),
        ({"kind": "in_stock", "column": "x", "at_least": 1, "values": ["y"]}, "not both"),
        ({"by": "brand"}, "`kind:` is missing"),
    ],
)
def test_a_rule_that_is_none_is_refused_in_the_config(rule, told):
    with pytest.raises(ValueError, match=told):
        ServeConfig(rules=[rule])


def test_recency_needs_times(tiny_run, serve, tmp_path):
    manifest = tiny_run.manifest.model_copy(update={"time_range": None})
    from raysys.data.vocabulary import Vocabulary
    from serving.answers.features import ItemFeatures
    from serving.rules import RuleFacts, make_rules

    facts = RuleFacts(manifest, Vocabulary(tiny_run.vocabulary.item_ids), ItemFeatures(tiny_run.catalog))
    rules = ServeConfig(rules=[{"kind": "exclude_recent", "event": manifest.event_names[0]}]).rules
    with pytest.raises(UserError, match="have no times, so none is recent"):
        make_rules(rules, facts)
