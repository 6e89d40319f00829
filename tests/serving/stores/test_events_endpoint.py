"""POST /v1/events and what follows: the next answer knows them; users are shown and deleted."""

import time

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from raysys.data.dataset import Dataset
from raysys.data.privacy import key_check, pseudonym
from raysys.errors import UserError
from raysys.runs import Run
from serving.endpoints import ENDPOINTS
from serving.http.gateway import Gateway


@pytest.fixture
def live(tiny_run, serve, tmp_path, node):
    """A client of a service with a fresh store of each kind."""
    service = serve(tiny_run, tmp_path, store=node, k=5, limits={"events": 50})
    with TestClient(Gateway(service), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def one(tiny_run, serve, tmp_path_factory):
    """A client for many small questions, on the embedded store."""
    service = serve(tiny_run, tmp_path_factory.mktemp("one"), limits={"events": 50})
    with TestClient(Gateway(service), raise_server_exceptions=False) as client:
        yield client


def post(client, *events):
    answer = client.post("/v1/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()["accepted"], answer.json()["duplicates"]


def recommend(client, **body):
    answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(answer):
    return [item["item_id"] for item in answer["items"]]


def refused(answer, status, code, told=""):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert told in answer.json()["error"]["message"]


def test_an_event_changes_the_next_answer(live, tiny_run):
    before = recommend(live, user_id="new")
    assert (before["source"], before["degraded"]) == ("popularity", [])
    history = []
    for item in ("i3", "i4", "i5"):
        began = time.monotonic()
        assert post(live, {"user_id": "new", "item_id": item}) == (1, 0)
        after = recommend(live, user_id="new")
        assert time.monotonic() - began < 1
        history.append(item)
        assert after["source"] == "user"
        assert listed(after) == [found.item_id for found in tiny_run.recommend(history, k=5)]


def test_many_replicas_see_one_state(tiny_run, serve, tmp_path, node):
    services = [serve(tiny_run, tmp_path, store=node) for _ in range(2)]
    with TestClient(Gateway(services[0])) as one, TestClient(Gateway(services[1])) as other:
        post(one, {"user_id": "new", "item_id": "i3"})
        assert listed(recommend(other, user_id="new")) == listed(recommend(one, history=["i3"]))


def test_events_go_by_time_and_ids_count_once(live):
    now = int(time.time() * 1000)
    late = {"user_id": "u", "item_id": "i1", "timestamp": now - 9000, "event_id": "late"}
    assert post(
        live, {"user_id": "u", "item_id": "i3", "timestamp": now}, {**late, "event_id": "x", "item_id": "i2"}
    ) == (2, 0)
    assert post(live, late, late) == (1, 1)
    assert post(live, late) == (0, 1)
    assert post(live, {"user_id": "u", "item_id": "i9", "timestamp": now - 10_000}) == (1, 0)
    events = live.get("/v1/users/u").json()["events"]
    assert [event["item_id"] for event in events] == ["i3", "i1", "i2", "i9"]


def test_a_visitor_logs_in(live, tiny_run):
    post(live, {"session_id": "s", "item_id": "i3"})
    visitor = recommend(live, session_id="s")
    assert visitor["source"] == "session"
    assert listed(visitor) == [item.item_id for item in tiny_run.recommend(["i3"], k=5)]
    assert recommend(live, user_id="s")["source"] == "popularity"  # a session's name is no user's

    post(live, {"session_id": "s", "user_id": "me", "item_id": "i4"})
    expected = [item.item_id for item in tiny_run.recommend(["i3", "i4"], k=5)]
    assert listed(recommend(live, user_id="me")) == expected
    assert recommend(live, session_id="s")["source"] == "popularity"

    post(live, {"session_id": "s", "item_id": "i5"})  # of the session again, until the next call that names both
    assert recommend(live, session_id="s")["source"] == "session"
    both = recommend(live, session_id="s", user_id="me")
    assert listed(both) == [item.item_id for item in tiny_run.recommend(["i3", "i4", "i5"], k=5)]
    assert recommend(live, session_id="s")["source"] == "popularity"


def test_a_history_follows_what_is_stored(live, tiny_run):
    post(live, {"user_id": "me", "item_id": "i3"}, {"user_id": "me", "item_id": "i4"})
    both = recommend(live, user_id="me", history=["i4", "i5"])
    assert both["source"] == "user"
    assert listed(both) == [item.item_id for item in tiny_run.recommend(["i3", "i4", "i5"], k=5)]
    alone = recommend(live, user_id="unknown", history=["i4", "i5"])
    assert alone["source"] == "history"
    assert listed(alone) == [item.item_id for item in tiny_run.recommend(["i4", "i5"], k=5)]


def test_a_user_is_shown_and_deleted(live):
    event = {"item_id": "?", "labels": {"rating": 4}, "context": {"page": "a", "hour": 1}, "request_id": "r", "slot": 2}
    before = live.get("/v1/users/u1")
    if before.status_code == 404:  # a shared store is not loaded at the start
        post(live, {"user_id": "u1", "item_id": "i1"})
        before = live.get("/v1/users/u1")
    known = before.json()["num_events"]
    post(live, {"user_id": "u1", "timestamp": int(time.time() * 1000) + 9, **event})
    shown = live.get("/v1/users/u1?limit=1").json()
    assert shown["num_events"] == known + 1
    assert shown["bytes"] > before.json()["bytes"] > 0
    (newest,) = shown["events"]
    assert {name: newest[name] for name in event} == event
    assert live.delete("/v1/users/u1").json()["deleted"] is True
    assert live.delete("/v1/users/u1").json()["deleted"] is False
    refused(live.get("/v1/users/u1"), 404, "unknown_user")
    assert recommend(live, user_id="u1")["source"] == "popularity"
    refused(live.get("/v1/users/u1?limit=many"), 400, "bad_request", "query.limit")


def test_scopes_are_named():
    scopes = {name: ENDPOINTS[name].scope for name in ("events", "user", "delete_user")}
    assert scopes == {"events": "events", "user": "admin", "delete_user": "admin"}


GOOD = {"user_id": "u", "item_id": "i1"}


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "body.events"),
        ([GOOD] * 51, "at most 50 at once"),
        ([{"item_id": "i1"}], "give user_id or session_id"),
        ([{"user_id": "u"}], "body.events.0.item_id"),
        ([{**GOOD, "user_id": ""}], "body.events.0.user_id"),
        ([{**GOOD, "item_id": "x" * 513}], "body.events.0.item_id"),
        ([GOOD, {**GOOD, "event": "wtach"}], "body.events.1.event: the run knows no 'wtach' (allowed: "),
        ([{**GOOD, "timestamp": 1_700_000_000}], "body.events.0.timestamp"),  # seconds
        ([{**GOOD, "timestamp": 99_999_999_999_999}], "more than an hour ahead"),
        ([{**GOOD, "timestamp": "now"}], "body.events.0.timestamp"),
        ([{**GOOD, "labels": {"rating": "good"}}], "body.events.0.labels.rating"),
        ([{**GOOD, "labels": {"rating": "5"}}], "body.events.0.labels.rating"),
        ([{**GOOD, "labels": {"click": True}}], "body.events.0.labels.click"),
        ([{**GOOD, "context": {"page": True}}], "body.events.0.context.page"),
        ([{**GOOD, "context": {"page": [1]}}], "body.events.0.context.page"),
        ([{**GOOD, "slot": -1}], "body.events.0.slot"),
        ([{**GOOD, "more": 1}], "no such key"),
    ],
)
def test_bad_events_are_refused_whole(one, events, told):
    refused(one.post("/v1/events", json={"events": events}), 400, "bad_request", told)
    refused(one.get("/v1/users/u"), 404, "unknown_user")


def test_numbers_that_json_has_not_are_refused(one):
    for value in ("NaN", "Infinity", "1e999"):
        body = f'{{"events": [{{"user_id": "u", "item_id": "i", "labels": {{"rating": {value}}}}}]}}'
        refused(one.post("/v1/events", content=body, headers={"content-type": "application/json"}), 400, "bad_request")


TEXT = st.text(max_size=8)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(-1e6, 1e6), TEXT, st.lists(TEXT, max_size=2))
EVENT = st.fixed_dictionaries(
    {"item_id": st.one_of(st.sampled_from(["i1", "i2", "?"]), TEXT)},
    optional={
        "user_id": st.one_of(st.sampled_from(["h1", "h2"]), VALUES),
        "session_id": st.one_of(st.just("s"), VALUES),
        "event": VALUES,
        "timestamp": st.one_of(st.integers(1_600_000_000_000, 1_700_000_000_000), VALUES),
        "labels": st.one_of(st.dictionaries(TEXT, VALUES, max_size=2), VALUES),
        "context": st.one_of(st.dictionaries(TEXT, VALUES, max_size=2), VALUES),
        "event_id": st.one_of(st.uuids().map(str), VALUES),
        "request_id": VALUES,
        "slot": VALUES,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.one_of(st.lists(EVENT, max_size=4), VALUES))
def test_no_body_breaks_it(one, events):
    content = httpx.Request("POST", "http://test", json={"events": events}).content
    answer = one.post("/v1/events", content=content, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        refused(answer, 400, "bad_request")
        return
    assert answer.json()["accepted"] + answer.json()["duplicates"] == len(events)
    for event in events:  # whatever was stored, answers are made from it
        asked = {name: event[name] for name in ("user_id", "session_id") if event.get(name) is not None}
        recommend(one, **asked)


def test_pseudonyms_stand_in_for_users(tiny_run, serve, tmp_path, monkeypatch):
    run = _pseudonymised(tiny_run, tmp_path)
    monkeypatch.delenv("STATE_KEY", raising=False)
    with TestClient(Gateway(serve(run, tmp_path))) as client:
        answer = client.post("/v1/events", json={"events": [{"user_id": "anna", "item_id": "i3"}]})
        refused(answer, 400, "bad_request", "$STATE_KEY")
        secret = _secret(monkeypatch)
        name = pseudonym("anna", secret)
        post(client, {"user_id": name, "item_id": "i3"})
    with TestClient(Gateway(serve(run, tmp_path))) as client:  # now the key is there
        assert recommend(client, user_id="anna")["source"] == "user"
        assert client.get("/v1/users/anna").json()["num_events"] == 1
        assert recommend(client, user_id=name)["source"] == "popularity"
    monkeypatch.setenv("STATE_KEY", "another key of sufficient length")
    with pytest.raises(UserError, match="another key"):
        serve(run, tmp_path)


def _secret(monkeypatch):
    from raysys.data.privacy import Pseudonymise

    monkeypatch.setenv("STATE_KEY", "a key of sufficient length")
    return Pseudonymise(key="env STATE_KEY").secret()


def _pseudonymised(run, folder):
    """A copy of a run whose manifest says that its users have pseudonyms."""
    import shutil

    with pytest.MonkeyPatch.context() as patch:
        check = key_check(_secret(patch))
    path = shutil.copytree(run.path, folder / "pseudonymised")
    config = run.manifest.config | {"pseudonymise": {"key": "env STATE_KEY"}}
    manifest = run.manifest.model_copy(update={"config": config, "key_check": check})
    (found,) = [one for one in path.glob("*.json") if '"events_by_split"' in one.read_text()]
    found.write_text(manifest.model_dump_json())
    return Run.open(path)


def test_the_row_of_a_user_is_that_of_the_run(tiny_run, serve, tmp_path):
    """The users of the run's dataset are those that the model has vectors for."""
    from serving.answers.encoding import StateEncoder

    service = serve(tiny_run, tmp_path)
    with TestClient(Gateway(service)) as client:
        assert client.get("/v1/users/u7").json()["num_events"] > 0
        portal = client.portal
        (state,) = portal.call(service.store.read, ["u7"])
    rows = StateEncoder(tiny_run).rows([state])
    assert 0 <= rows.users[0] < Dataset.open(tiny_run.record.dataset).manifest.num_users
    assert np.all(rows.times > 0)
