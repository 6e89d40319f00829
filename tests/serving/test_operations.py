"""What operators see: readiness, metrics, models, headers, logs, the audit of admins, TLS."""

import asyncio
import base64
import hashlib
import json
import logging
import re
import ssl
import stat
import subprocess
import threading
import time

import httpx
import pytest
import uvicorn
from asgi import ask, post
from starlette.testclient import TestClient

from raysys.configfile import build
from raysys.errors import UserError
from serving.access import auth
from serving.access.keys import add_key
from serving.app import application
from serving.checks import check_access
from serving.config import ServeConfig
from serving.endpoints import ENDPOINTS, Endpoint, Reply
from serving.http.gateway import Gateway
from serving.http.journal import Failures
from serving.replica import Replica
from serving.stores import StoreDownError

SECRET_USER = "user-whom-nobody-may-see"


class _Done(Reply):
    done: bool


async def _forget(call):
    """Forget a user, or fail over it."""
    if call.path["user_id"] == "bad":
        raise KeyError(SECRET_USER)
    return _Done(done=True)


FORGET = Endpoint("DELETE", "/v1/forgotten/{user_id}", "Forget", _forget, _Done, scope="admin")


@pytest.fixture
def down(service, monkeypatch):
    async def fail(*_):
        raise StoreDownError(f"no connection for {SECRET_USER}")

    monkeypatch.setattr(service.store, "count", fail)
    monkeypatch.setattr(service.store, "read", fail)


def test_ready_once_a_run_is_loaded_and_until_it_stops(client, tiny_run, tmp_path):
    assert client.get("/readyz").json() == {"status": "ready", "degraded": []}
    replica = Replica()
    gateway = replica.__serve_build_asgi_app__()
    empty = ask(gateway, "GET", "/readyz")
    assert (empty.status, empty.json["error"]["code"]) == (503, "not_ready")
    config = ServeConfig(access={"enabled": False}).with_places(str(tmp_path), "x")
    asyncio.run(replica.reconfigure(config.replica(str(tiny_run.path)).model_dump()))
    assert ask(gateway, "GET", "/readyz").status == 200
    replica.__del__()  # what Ray Serve does at the end
    stopping = ask(gateway, "GET", "/readyz")
    assert (stopping.status, stopping.json["error"]["code"]) == (503, "stopping")
    late = asyncio.run(post(gateway, "/v1/recommend", {"history": ["i3"]}))
    assert (late.status, late.json["error"]["code"]) == (503, "stopping")
    assert ask(gateway, "GET", "/healthz").status == 200


@pytest.mark.usefixtures("down")
def test_a_store_that_is_down_degrades_and_fails_no_health(client):
    assert client.get("/readyz").json() == {"status": "degraded", "degraded": ["store"]}
    assert client.get("/healthz").json()["users"] is None
    failed = client.post("/v1/recommend", json={"user_id": SECRET_USER})
    assert failed.status_code in (200, 503)
    assert client.post("/v1/recommend", json={"history": ["i3"]}).status_code == 200


def test_models_tell_what_answers(client, tiny_run):
    (model,) = client.get("/v1/models").json()["models"]
    assert model["run_id"] == tiny_run.record.run_id
    assert model["tasks"] == {"next_item": "next_item", "rating": "rating"}
    assert model["test"] == tiny_run.record.test
    assert model["dataset_fingerprint"] == tiny_run.record.dataset_fingerprint
    assert model["items"] == tiny_run.manifest.num_items


def numbers(client):
    lines = client.get("/metrics").text.splitlines()
    found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


def own_log(caplog):
    """Return what a replica logged: clients of tests log too."""
    return [record.getMessage() for record in caplog.records if record.name == "ray.serve"]


def test_metrics_count_what_happens(tiny_run, serve, tmp_path):
    client = TestClient(Gateway(serve(tiny_run, tmp_path)))
    for _ in range(3):
        client.post("/v1/recommend", json={"user_id": "u1"})
    client.post("/v1/recommend", json={})
    client.get("/nothing")
    client.request("\u0041" * 9, "/nothing/u7")
    found = numbers(client)
    assert found['raysys_requests_total{endpoint="/v1/recommend",status="200"}'] == 3
    assert found['raysys_requests_total{endpoint="/v1/recommend",status="400"}'] == 1
    assert found['raysys_requests_total{endpoint="none",status="404"}'] == 2
    assert found['raysys_refused_total{code="bad_request"}'] == 1
    assert found['raysys_request_seconds_count{endpoint="/v1/recommend"}'] == 4
    assert found["raysys_model_batch_size_sum"] == found["raysys_model_seconds_count"] == 3
    assert found["raysys_waiting_questions"] == 0
    assert found[f'raysys_run{{run_id="{tiny_run.record.run_id}"}}'] == 1
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")


def test_metrics_outlast_a_change_of_runs(tiny_run, orphan_run, tmp_path):
    replica = Replica()
    client = TestClient(replica.__serve_build_asgi_app__())
    for run in (tiny_run, orphan_run):
        config = ServeConfig(access={"enabled": False}).with_places(str(tmp_path), "x")
        asyncio.run(replica.reconfigure(config.replica(str(run.path)).model_dump()))
        client.post("/v1/recommend", json={"history": ["i3"]})
    found = numbers(client)
    assert found['raysys_requests_total{endpoint="/v1/recommend",status="200"}'] == 2
    assert found["raysys_model_batch_size_count"] == 2
    assert [name for name in found if name.startswith("raysys_run{")] == ['raysys_run{run_id="orphan"}']


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/openapi.json", "/nothing", "/v1/recommend"])
def test_every_answer_has_the_headers_of_security(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert "http" not in page.text.replace("<!doctype html>", "").replace("<html", "").replace("</html>", "")
    policy = page.headers["content-security-policy"]
    for name in ("script", "style"):
        own = re.search(f"<{name}>(.*?)</{name}>", page.text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_other_origins_may_call_where_the_config_says_so(tiny_run, serve, tmp_path):
    access = {"enabled": False, "cors": ("https://shop.example",)}
    client = TestClient(Gateway(serve(tiny_run, tmp_path, access=access)))
    asked = {"access-control-request-method": "POST"}
    allowed = client.options("/v1/recommend", headers={"origin": "https://shop.example", **asked})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    assert allowed.headers["access-control-allow-methods"] == "POST"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    for body in ({"user_id": "u1"}, {}):
        answer = client.post("/v1/recommend", json=body, headers={"origin": "https://shop.example"})
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert answer.headers["vary"] == "origin"
    for origin in ("https://shop.example.evil", "http://shop.example", "null", "*"):
        refused = client.options("/v1/recommend", headers={"origin": origin, **asked})
        assert refused.status_code == 405
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("origin", ["*", "shop.example", "https://", "https://*.example", "https://a.example/path"])
def test_origins_are_named_in_full(origin):
    with pytest.raises(UserError, match="cors"):
        build(ServeConfig, {"access": {"cors": [origin]}}, "serve")


@pytest.fixture
def guarded(tiny_run, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "_LOOK_EVERY_S", 0.0)
    access = {"keys": str(tmp_path / "keys.json"), "audit": str(tmp_path / "audit.jsonl")}
    service = serve(tiny_run, tmp_path / "state", access=access)
    return TestClient(Gateway(service, {**ENDPOINTS, "forget": FORGET}), raise_server_exceptions=False)


def test_no_log_and_no_metric_names_users_or_keys(guarded, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "ray.serve")
    key = add_key(tmp_path / "keys.json", "all", ["read", "admin"], rate=1000.0)
    headers = {"x-api-key": key}

    def fail(questions):
        raise ValueError(f"{questions} {SECRET_USER}") from KeyError(SECRET_USER)

    guarded.get(f"/v1/users/{SECRET_USER}/nothing", headers=headers)
    guarded.post("/v1/recommend", json={"user_id": SECRET_USER, "k": 0}, headers=headers)
    guarded.post("/v1/recommend", json={"user_id": SECRET_USER}, headers={"x-api-key": key + "x"})
    guarded.delete(f"/v1/forgotten/{SECRET_USER}", headers=headers)
    guarded.delete("/v1/forgotten/bad", headers=headers)
    guarded.request(SECRET_USER, "/v1/recommend", headers=headers)
    monkeypatch.setattr(guarded.app.service.answerer.retrieval, "answers", fail)
    failed = guarded.post("/v1/recommend", json={"user_id": SECRET_USER}, headers=headers)
    assert failed.status_code == 500
    assert SECRET_USER not in failed.text
    log = "\n".join(own_log(caplog))
    assert "ValueError" in log
    assert "outcomes = self._answer(" in log, "where it happened is told"
    written = log + guarded.get("/metrics", headers=headers).text + (tmp_path / "audit.jsonl").read_text()
    for secret in (SECRET_USER, key, key.split("_", 2)[2]):
        assert secret not in written


def test_every_failure_is_one_line_of_json(client, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "ray.serve")
    client.post("/v1/recommend", json={}, headers={"x-request-id": "mine"})
    client.post("/v1/recommend", json={"user_id": "u1"})
    client.get("/nothing")
    lines = [json.loads(line) for line in own_log(caplog)]
    assert [(line["path"], line["status"], line["code"]) for line in lines] == [
        ("/v1/recommend", 400, "bad_request"),
        ("none", 404, "not_found"),
    ]
    assert lines[0]["request_id"] == "mine"
    assert lines[0]["method"] == "POST"
    assert lines[0]["ms"] >= 0


def test_what_fails_for_all_is_told_once_in_a_while_with_how_often(caplog):
    caplog.set_level(logging.INFO, "ray.serve")
    client = TestClient(Gateway())
    for number in range(5):
        client.post("/v1/recommend", json={"user_id": "u1"}, headers={"x-request-id": f"r{number}"})
    client.get("/nothing")
    client.get("/nothing")
    lines = [json.loads(line) for line in own_log(caplog)]
    assert [line["code"] for line in lines] == ["not_ready", "not_found", "not_found"]
    assert (lines[0]["request_id"], lines[0]["unwritten"]) == ("r0", 0)
    assert numbers(client)['raysys_refused_total{code="not_ready"}'] == 5


def test_the_next_line_counts_those_before_it_by_code(caplog):
    failures = Failures(pause_s=0.2)

    def fail(code, count):
        for _ in range(count):
            failures.note("r", "POST", "/v1/recommend", 503, code, 0.1)

    fail("scorers_down", 4)
    fail("store_down", 2)
    time.sleep(0.25)
    fail("scorers_down", 3)
    lines = [json.loads(line) for line in own_log(caplog)]
    assert [(line["code"], line["unwritten"]) for line in lines] == [
        ("scorers_down", 0),
        ("store_down", 0),
        ("scorers_down", 3),
    ]


def test_calls_of_admins_are_noted(guarded, tmp_path):
    key, reader = (add_key(tmp_path / "keys.json", "a", [scope]) for scope in ("admin", "read"))
    for user_id, own in (("u1", key), ("u1", key), ("u2", key), ("bad", key), ("u1", reader)):
        headers = {"authorization": f"Bearer {own}", "x-request-id": f"for-{user_id}"}
        guarded.delete(f"/v1/forgotten/{user_id}", headers=headers)
    guarded.get("/v1/models", headers={"x-api-key": reader})
    audit = tmp_path / "audit.jsonl"
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["status"] for line in lines] == [200, 200, 200, 500, 403]
    assert [line["key"] for line in lines] == [key.split("_")[1]] * 4 + [None]
    assert {line["call"] for line in lines} == {"DELETE /v1/forgotten/{user_id}"}
    assert [line["request_id"] for line in lines] == ["for-u1", "for-u1", "for-u2", "for-bad", "for-u1"]
    users = [line.get("user_id") for line in lines]
    assert users[0] == users[1] != users[2]
    assert re.fullmatch("[0-9a-f]{16}", users[0])


def test_an_audit_that_cannot_be_written_is_told(guarded, tmp_path, caplog):
    key = add_key(tmp_path / "keys.json", "a", ["admin"])
    (tmp_path / "audit.jsonl").mkdir()
    assert guarded.delete("/v1/forgotten/u1", headers={"x-api-key": key}).status_code == 200
    assert "not written to" in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    paths = {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", paths["key"], "-out", paths["certificate"]]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return paths


def test_tls_reaches_ray_serve_and_answers(tiny_run, service, certificate):
    config = ServeConfig(tls=certificate, access={"enabled": False})
    check_access(config)
    options = application(tiny_run, config)["http_options"]
    given = {name: value for name, value in options.items() if name.startswith("ssl_")}
    assert given == {"ssl_certfile": certificate["certificate"], "ssl_keyfile": certificate["key"]}
    server = uvicorn.Server(uvicorn.Config(Gateway(service), port=0, log_level="error", lifespan="off", **given))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    trusted = ssl.create_default_context(cafile=certificate["certificate"])
    assert httpx.get(f"https://127.0.0.1:{port}/healthz", verify=trusted).json()["status"] == "ok"
    server.should_exit = True
    thread.join(20)


def test_a_certificate_is_checked_before_anything_starts(certificate, tmp_path):
    (tmp_path / "x.pem").write_text("x")
    for wrong in ({"certificate": "gone.pem"}, {"key": str(tmp_path / "x.pem")}, {"key": certificate["certificate"]}):
        config = ServeConfig(tls={**certificate, **wrong}, access={"enabled": False})
        with pytest.raises(UserError, match="tls"):
            check_access(config)
    with pytest.raises(UserError, match=r"tls\.key"):
        build(ServeConfig, {"tls": {"certificate": "x"}}, "serve")


def test_the_document_says_who_may_ask(client):
    document = client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    names = set()
    for endpoint in ENDPOINTS.values():
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        names.add(operation["operationId"])
        assert ("security" in operation) == (endpoint.scope is not None)
        assert {"401", "403"} <= set(operation["responses"]) or endpoint.scope is None
        if endpoint.body is not None and not endpoint.reads_query:
            content = operation["requestBody"]["content"]["application/json"]
            assert content["examples"], endpoint.path
            assert {"400", "413", "415"} <= set(operation["responses"])
    assert len(names) == len(ENDPOINTS), "operation ids are unique"
