"""The endpoints over a real tiny run, without Ray: answers, refusals, and what the OpenAPI page promises."""

import asyncio
import json
import threading

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from serving.config import ServeConfig
from serving.endpoints import ENDPOINTS
from serving.http.gateway import Gateway
from serving.replica import Replica


def recommend(client, **body):
    answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    return error


def items_of_user(run, user_id):
    dataset = Dataset.open(run.record.dataset)
    reader = ShardReader(dataset)
    everybody = np.arange(dataset.manifest.num_users)
    row = reader.user_ids(everybody).to_pylist().index(user_id)
    items = reader.rows(np.array([row])).items
    return run.vocabulary.decode(items[items >= FIRST_ITEM]).to_pylist()


def by_popularity(run):
    counts = run.catalog.popularity[FIRST_ITEM:]
    return [run.vocabulary.item_ids[int(place)].as_py() for place in np.argsort(-counts, kind="stable")]


def test_a_history_is_answered_as_the_library_does(client, tiny_run):
    history = ["i3", "i4", "nobody-knows-this", "i5"]
    answer = recommend(client, history=history, k=7)
    expected = tiny_run.recommend(history, k=7)
    assert answer["source"] == "history"
    assert answer["run_id"] == tiny_run.record.run_id
    assert [item["item_id"] for item in answer["items"]] == [item.item_id for item in expected]
    assert [item["title"] for item in answer["items"]] == [item.title for item in expected]
    np.testing.assert_allclose([i["score"] for i in answer["items"]], [i.score for i in expected], rtol=1e-5)


def test_a_known_user_is_answered_from_the_whole_history(client, tiny_run):
    for user_id in ("u0", "u7", "u299"):
        had = items_of_user(tiny_run, user_id)
        answer = recommend(client, user_id=user_id, k=10)
        assert answer["source"] == "user"
        assert [i["item_id"] for i in answer["items"]] == [i.item_id for i in tiny_run.recommend(had, k=10)]
        assert not {item["item_id"] for item in answer["items"]} & set(had)


def test_seen_items_are_kept_on_request(client, tiny_run):
    had = items_of_user(tiny_run, "u7")
    kept = recommend(client, user_id="u7", k=20, exclude_seen=False)
    expected = tiny_run.recommend(had, k=20, exclude_seen=False)
    assert [item["item_id"] for item in kept["items"]] == [item.item_id for item in expected]
    assert {item["item_id"] for item in kept["items"]} & set(had)


def test_pair_tasks_show_what_they_predict(client):
    for body in ({"user_id": "u1"}, {"history": ["i3"]}, {"user_id": "nobody"}):
        for item in recommend(client, **body)["items"]:
            assert set(item["scores"]) == {"rating"}
            assert 1 < item["scores"]["rating"] < 6


@pytest.mark.parametrize("body", [{"user_id": "nobody"}, {"history": []}, {"history": ["no", "such"]}])
def test_whoever_is_not_known_gets_what_is_popular(client, tiny_run, body):
    answer = recommend(client, **body, k=12)
    assert answer["source"] == "popularity"
    assert [item["item_id"] for item in answer["items"]] == by_popularity(tiny_run)[:12]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == tiny_run.catalog.popularity.max()


def test_k_has_a_default_and_a_maximum(client):
    assert len(recommend(client, user_id="u1")["items"]) == 5
    assert len(recommend(client, user_id="u1", k=20)["items"]) == 20
    error = refused(client.post("/v1/recommend", json={"user_id": "u1", "k": 21}), 400, "bad_request")
    assert "at most 20" in error["message"]


def test_the_whole_catalogue_is_the_most_there_is(tiny_run, serve, tmp_path):
    client = TestClient(Gateway(serve(tiny_run, tmp_path, k_max=1000)))
    had = set(items_of_user(tiny_run, "u7"))
    found = {item["item_id"] for item in recommend(client, user_id="u7", k=1000)["items"]}
    assert found == set(tiny_run.vocabulary.item_ids.to_pylist()) - had


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "none is given"),
        ({"session_id": ""}, "body.session_id"),
        ({"user_id": "u1", "k": 0}, "body.k"),
        ({"user_id": "u1", "k": -3}, "not -3"),
        ({"user_id": "u1", "k": "5"}, "body.k"),
        ({"user_id": "u1", "k": True}, "body.k"),
        ({"user_id": "u1", "k": 1.5}, "body.k"),
        ({"user_id": ""}, "body.user_id"),
        ({"user_id": 42}, "body.user_id"),
        ({"history": "i1"}, "body.history"),
        ({"history": [1, 2]}, "body.history.0"),
        ({"user_id": "u1", "exclude_seen": "no"}, "body.exclude_seen"),
        ({"user_id": "u1", "limit": 3}, "body.limit: no such key"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_bad_bodies_are_refused_and_told_why(client, body, told):
    content, headers = json.dumps(body), {"content-type": "application/json"}
    error = refused(client.post("/v1/recommend", content=content, headers=headers), 400, "bad_request")
    assert told in error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"user_id": u1}', b"\xff\xfe", b'{"user_id": "\\ud800"}'])
def test_what_is_not_json_is_refused(client, content):
    headers = {"content-type": "application/json"}
    refused(client.post("/v1/recommend", content=content, headers=headers), 400, "bad_request")


def test_messages_do_not_repeat_long_values(client):
    error = refused(client.post("/v1/recommend", json={"user_id": ["x" * 5000]}), 400, "bad_request")
    assert len(error["message"]) < 300


def test_other_errors_have_the_same_shape(client, service, monkeypatch):
    refused(client.get("/nothing/here"), 404, "not_found")
    wrong_method = client.get("/v1/recommend")
    refused(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"
    monkeypatch.setattr(service.answerer.retrieval, "answers", lambda questions: 1 / 0)
    error = refused(client.post("/v1/recommend", json={"user_id": "u1"}), 500, "internal")
    assert "division" not in error["message"]


def test_without_a_run_the_answer_is_not_ready():
    empty = TestClient(Gateway())
    assert empty.get("/healthz").json() == {"status": "ok", "run_id": None, "items": 0, "users": None}
    refused(empty.get("/readyz"), 503, "not_ready")
    refused(empty.post("/v1/recommend", json={"user_id": "u1"}), 503, "not_ready")


def test_request_ids_are_taken_or_made(client):
    def ask(**headers):
        return client.post("/v1/recommend", json={"user_id": "u1"}, headers=headers).json()["request_id"]

    assert ask(**{"x-request-id": "abc-123"}) == "abc-123"
    assert ask() != ask()
    for bad in ("", "a b", "x" * 200):
        assert ask(**{"x-request-id": bad}) not in ("", bad)
    error = refused(client.post("/v1/recommend", json={}, headers={"x-request-id": "mine"}), 400, "bad_request")
    assert error["request_id"] == "mine"


def test_health_tells_run_items_and_users(client, tiny_run):
    expected = {"status": "ok", "run_id": tiny_run.record.run_id, "items": tiny_run.vocabulary.num_items, "users": 300}
    assert client.get("/healthz").json() == expected


def test_without_the_dataset_histories_and_popularity_go_on(orphan_run, serve, tmp_path, capsys):
    client = TestClient(Gateway(serve(orphan_run, tmp_path)))
    assert "no user histories" in capsys.readouterr().err
    assert client.get("/healthz").json()["users"] == 0
    assert recommend(client, user_id="u1")["source"] == "popularity"
    assert recommend(client, history=["i3"])["source"] == "history"


def test_a_replica_changes_its_run_and_survives_a_bad_one(tiny_run, orphan_run, tmp_path):
    replica = Replica()
    client = TestClient(replica.__serve_build_asgi_app__())

    def reconfigure(path):
        config = ServeConfig(k=3, access={"enabled": False}).with_places(str(tmp_path), "x")
        asyncio.run(replica.reconfigure(config.replica(str(path)).model_dump()))
        return client.get("/healthz").json()["run_id"]

    with pytest.raises(UserError, match="not a run"):
        reconfigure(tiny_run.path.parent)
    assert reconfigure(tiny_run.path) == tiny_run.record.run_id
    assert reconfigure(orphan_run.path) == "orphan"
    assert reconfigure(tiny_run.path.parent) == "orphan"
    assert len(recommend(client, user_id="u1")["items"]) == 3


def test_health_answers_while_the_model_works(service, monkeypatch):
    started, go_on = threading.Event(), threading.Event()
    answers = service.answerer.retrieval.answers

    def slow(questions):
        started.set()
        assert go_on.wait(30)
        return answers(questions)

    monkeypatch.setattr(service.answerer.retrieval, "answers", slow)

    async def ask_both():
        transport = httpx.ASGITransport(Gateway(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            waiting = asyncio.create_task(client.post("/v1/recommend", json={"user_id": "u1"}))
            while not started.is_set():
                await asyncio.sleep(0.01)
            health = await client.get("/healthz")
            assert not waiting.done()
            go_on.set()
            return health, await waiting

    health, recommended = asyncio.run(ask_both())
    assert health.status_code == recommended.status_code == 200


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 30), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3))
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.one_of(st.sampled_from(["u1", "u299"]), VALUES),
        "history": st.one_of(st.lists(st.sampled_from(["i1", "i2", "?", ""])), VALUES),
        "k": VALUES,
        "exclude_seen": st.one_of(st.booleans(), VALUES),
        "other": VALUES,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES)
def test_no_body_breaks_it(client, body):
    content = httpx.Request("POST", "http://test", json=_finite(body)).content
    answer = client.post("/v1/recommend", content=content, headers={"content-type": "application/json"})
    if answer.status_code == 200:
        assert len(answer.json()["items"]) <= 20
        assert answer.json()["source"] in ("user", "history", "popularity")
    else:
        refused(answer, 400, "bad_request")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return 0.5 if isinstance(value, float) and not np.isfinite(value) else value


def test_the_openapi_document_is_complete(client):
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == "raysys"
    assert set(document["paths"]) == {endpoint.path for endpoint in ENDPOINTS.values()}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert set(operation["responses"]) >= {"200", "503", "default"}, path
            for status in set(operation["responses"]) - {"200"}:
                shape = operation["responses"][status]["content"]["application/json"]["schema"]
                assert shape["$ref"].endswith("/ErrorAnswer")
    body = document["paths"]["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) == 5
    fields = document["components"]["schemas"]["RecommendRequest"]["properties"]
    assert all("description" in field for field in fields.values())
    assert client.get("/docs").status_code == 200


def test_every_example_of_the_openapi_document_is_answered(client):
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        recommend(client, **example["value"])
