"""What every store does, on a SQLite file and on a real Redis server."""

import asyncio
import time
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.catalogue.changes import ItemChange
from serving.stores import Loaded, LoadedUser, StoreDownError, session_key
from serving.users.state import NOBODY, StoredEvent, pack_user

NAMES = ["u1", "", " ", "a b", "ü\U0010ffff", "{x}", "}{", "u:live", "*", "x\0y", "1' OR '1'='1"]


@pytest.fixture
def use(node, of_stores):
    using, _ = of_stores
    return lambda work, **settings: using(node, work, **settings)


@pytest.fixture
def new(of_stores):
    return of_stores[1]


def items(state):
    return [event.item_id for event in state.events]


def loaded(user_id, fingerprint, *events, row=0):
    packed = ",".join(StoredEvent(item, "watch", time).pack().decode() for item, time in events)
    return LoadedUser(user_id, max(time for _, time in events), pack_user(fingerprint, row, '{"age":7}', packed))


def test_nobody_is_known_at_first(use):
    async def work(store):
        assert await store.read(NAMES) == [NOBODY] * len(NAMES)
        assert await store.count() == await store.size(NAMES) == 0
        assert await store.loaded() is None
        assert await store.read([]) == []
        assert not await store.delete("u1")

    use(work)


def test_events_are_those_that_were_appended(use, new):
    full = {"labels": {"rating": 4.5}, "context": {"hour": 3.0, "page": 'a"ü'}, "request_id": "r-1", "slot": 0}
    events = [new(name, f"item of {name}", 5, **full) for name in NAMES]

    async def work(store):
        assert await store.append(events) == [True] * len(NAMES)
        assert [state.events for state in await store.read(NAMES)] == [(one.event,) for one in events]
        assert await store.size(["u1"]) > 0

    use(work)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=6), st.integers(1, 12))
def test_events_stand_in_order_of_time_and_the_newest_stay(use, new, batches, most):
    user = uuid.uuid4().hex
    numbered = [[(f"i{n}-{m}", time) for m, time in enumerate(batch)] for n, batch in enumerate(batches)]
    kept = []
    for batch in numbered:
        kept = sorted(kept + batch, key=lambda one: one[1])[-most:]

    async def work(store):
        for batch in numbered:
            await store.append([new(user, item, time) for item, time in sorted(batch, key=lambda one: one[1])])
        return (await store.read([user]))[0]

    assert items(use(work, max_events=most)) == [item for item, _ in kept]


def test_an_event_id_counts_once(use, new):
    async def work(store):
        assert await store.append([new("u", "i1", 1, "a"), new("u", "i2", 2, "b"), new("u", "i3", 3, "a")]) == [
            True,
            True,
            False,
        ]
        assert await store.append([new("u", "i4", 4, "b"), new("v", "i5", 5, "c")]) == [False, True]
        assert [items(state) for state in await store.read(["u", "v"])] == [["i1", "i2"], ["i5"]]

    use(work)


@pytest.mark.thorough
def test_an_event_id_is_forgotten_after_its_time(use, new):
    async def work(store):
        await store.append([new("u", "i1", 1, "a")])
        await asyncio.sleep(2.2)
        assert await store.append([new("u", "i2", 2, "b"), new("u", "i1", 1, "a")]) == [True, True]

    use(work, remember_ids_s=1)


def test_other_kinds_push_out_no_history(use, new):
    async def work(store):
        await store.append([new("u", "watched", 1)])
        await store.append([new("u", f"shown{n}", n, is_history=False) for n in range(9)])
        (state,), (whole,) = await store.read(["u"]), await store.read(["u"], whole=True)
        assert items(state) == ["watched"]
        assert items(whole) == ["watched", "shown6", "shown7", "shown8"]

    use(work, max_events=3)


def test_a_session_becomes_its_user_once(use, new):
    session = session_key("s")

    async def work(store):
        await store.append([new("u", "i2", 2), new(session, "i1", 1), new(session, "i3", 3)])
        await store.append([new(session, "shown", 4, is_history=False), new("s", "of a user named s", 1)])
        assert await store.merge(session, "u") == 3
        assert await store.merge(session, "u") == 0
        user, other, left = await store.read(["u", "s", session], whole=True)
        assert items(user) == ["i1", "i2", "i3", "shown"]
        assert items(other) == ["of a user named s"]
        assert left == NOBODY
        await store.append([new(session, "i5", 5)])
        assert await store.merge(session, "u") == 1

    use(work)


def test_merging_keeps_the_newest(use, new):
    async def work(store):
        await store.append([new("u", f"u{n}", n) for n in range(3)])
        await store.append([new(session_key("s"), f"s{n}", n + 0) for n in range(1, 4)])
        await store.merge(session_key("s"), "u")
        assert items((await store.read(["u"]))[0]) == ["u2", "s2", "s3"]

    use(work, max_events=3)


@pytest.mark.thorough
def test_sessions_are_forgotten_after_their_time(use, new):
    async def work(store):
        await store.append([new(session_key("s"), "i1", 1), new("u", "i1", 1)])
        await asyncio.sleep(2.2)
        await store.append([new("u", "i2", 2)])
        left, user = await store.read([session_key("s"), "u"])
        assert left == NOBODY
        assert items(user) == ["i1", "i2"]

    use(work, session_s=1)


def test_a_deleted_user_is_gone_and_does_not_come_back_by_a_late_retry(use, new):
    late = new("u", "i3", 3, "late")

    async def work(store):
        await store.load([loaded("u", "f" * 64, ("i1", 1)), loaded("v", "f" * 64, ("i1", 1))])
        await store.append([late, new("u", "shown", 4, is_history=False)])
        assert await store.delete("u")
        assert not await store.delete("u")
        assert await store.size(["u"]) == 0
        assert await store.append([late]) == [False]
        gone, other = await store.read(["u", "v"], whole=True)
        assert gone == NOBODY
        assert items(other) == ["i1"]

    use(work)


def test_a_load_replaces_the_one_before_and_live_events_it_holds(use, new):
    async def work(store):
        await store.set_loaded(None)
        await store.load([loaded("u", "a" * 64, ("i1", 1), row=3), loaded("gone", "a" * 64, ("i1", 1))])
        await store.set_loaded(Loaded("a" * 64, 2, 1))
        assert (await store.loaded(), await store.count()) == (("a" * 64, 2, 1), 2)
        await store.append(
            [new("u", "i2", 2), new("u", "i5", 5), new("gone", "i9", 9), new("u", "s", 2, is_history=False)]
        )
        (state,) = await store.read(["u"])
        assert items(state) == ["i1", "i2", "i5"]
        assert (state.profile.row, state.profile.tag, state.profile.features) == (3, "a" * 16, {"age": 7})

        await store.set_loaded(None)
        assert await store.loaded() is None  # while it lasts, and if it is interrupted
        await store.load([loaded("u", "b" * 64, ("i1", 1), ("i2", 2), ("i4", 4))])
        await store.set_loaded(Loaded("b" * 64, 1, 4))
        assert (await store.loaded(), await store.count()) == (("b" * 64, 1, 4), 1)
        user, gone = await store.read(["u", "gone"], whole=True)
        assert items(user) == ["i1", "i2", "i4", "i5"]
        assert items(gone) == ["i9"]
        assert gone.profile is None
        assert user.profile.tag == "b" * 16

    use(work)


def test_a_load_may_be_repeated(use, new):
    users = [loaded(f"u{n}", "c" * 64, *[(f"i{m}", m) for m in range(5)], row=n) for n in range(700)]

    async def work(store):
        for _ in range(2):
            await store.load(users)
            await store.set_loaded(Loaded("c" * 64, len(users), 4))
        return await store.read(["u0", "u699"])

    assert [items(state) for state in use(work)] == [["i0", "i1", "i2", "i3", "i4"]] * 2


def test_an_answer_sees_the_newest_of_what_was_loaded_and_posted(use, new):
    async def work(store):
        await store.load([loaded("u", "a" * 64, *[(f"i{n}", n) for n in range(4)])])
        await store.append([new("u", "now", 9)])
        return (await store.read(["u"]))[0]

    assert items(use(work, max_events=3)) == ["i2", "i3", "now"]


def test_changes_of_items_come_by_version_and_fields_that_are_not_named_stay(use):
    values = {
        "title": 'T "ü',
        "number.price": 0.1,
        "category.brand": None,
        "category.tags": ["a", ""],
        "withdrawn": True,
    }

    async def work(store):
        assert await store.items_since(0) == (0, [])
        first = await store.put_items([ItemChange(name, values) for name in NAMES])
        version, changes = await store.items_since(0)
        assert (version, {one.item_id: one.fields for one in changes}) == (first, dict.fromkeys(NAMES, values))
        assert await store.items_since(first) == (first, [])
        second = await store.put_items([ItemChange("u1", {"number.price": 2}), ItemChange("u2", {"withdrawn": False})])
        assert second > first
        assert (await store.items_since(first))[0] == second
        assert dict((await store.items_since(first))[1]) == {"u1": {"number.price": 2}, "u2": {"withdrawn": False}}
        whole = dict((await store.items_since(0))[1])
        assert whole["u1"] == {**values, "number.price": 2}
        assert len(whole) == len(NAMES) + 1
        assert await store.items_since(second + 7) == (second, (await store.items_since(0))[1])  # of another store

    use(work)


def test_changes_of_items_outlive_and_meet(use):
    async def put(store):
        async def one(n):
            return await store.put_items([ItemChange(f"i{n % 3}", {"n": n}), ItemChange("all", {f"n{n}": n})])

        versions = await asyncio.gather(*(one(n) for n in range(30)))
        assert len(set(versions)) == 30
        return max(versions)

    async def read(store):
        return await store.items_since(0)

    newest = use(put)
    version, changes = use(read)
    assert version == newest
    assert dict(changes)["all"] == {f"n{n}": n for n in range(30)}


def test_many_changes_at_once(use):
    changes = [ItemChange(f"i{n}", {"title": f"item {n}", "number.price": n / 7}) for n in range(10_000)]

    async def work(store):
        await store.put_items(changes)
        return (await store.items_since(0))[1]

    assert dict(use(work)) == {one.item_id: one.fields for one in changes}


def test_what_is_stored_outlives_the_one_who_stored_it(use, new):
    async def write(store):
        await store.append([new("u", "i1", 1, "a")])

    async def read(store):
        assert await store.append([new("u", "i1", 1, "a")]) == [False]
        return items((await store.read(["u"]))[0])

    use(write)
    assert use(read) == ["i1"]


def test_reads_and_appends_at_once_lose_nothing(use, new):
    async def work(store):
        appends = [store.append([new("u", f"i{n}", n, f"id{n // 2}")]) for n in range(60)]
        found = await asyncio.gather(*appends, *(store.read(["u"]) for _ in range(30)))
        assert sum(new for (new,) in found[:60]) == 30
        return (await store.read(["u"]))[0]

    assert len(use(work).events) == 30


def test_the_loop_is_not_held_up(use, new):
    """While a thousand users are put in, other work of the loop goes on."""
    users = [loaded(f"u{n}", "c" * 64, *[(f"i{m}", m) for m in range(5)]) for n in range(5000)]

    async def work(store):
        loading = asyncio.create_task(store.load(users))
        turns, began = 0, time.monotonic()
        while not loading.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns >= 5, f"{turns} turns in {time.monotonic() - began:.2f} s"
        await loading

    use(work)


def test_errors_say_down(tmp_path, of_stores):
    using, new = of_stores

    async def work(store):
        with pytest.raises(StoreDownError):
            await store.read(["u"])
        with pytest.raises(StoreDownError):
            await store.append([new("u", "i1")])

    (tmp_path / "file").write_text("")
    using({"kind": "embedded", "path": str(tmp_path / "file" / "state.sqlite")}, work)
    using({"kind": "redis", "url": "redis://127.0.0.1:1/0", "prefix": "x:"}, work)
