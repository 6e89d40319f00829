"""The real Ray Serve: deployed, asked, changed in place, stopped; and the verb in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from raysys.errors import UserError
from serving.commands.serve import served
from serving.config import ServeConfig

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def port_of(url):
    return int(url.rpartition(":")[2])


def listens(url):
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port_of(url))) == 0


def replicas():
    import ray

    return sorted(
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if "REPLICA" in actor["name"]
    )


def test_a_run_is_served_changed_in_place_and_stopped(tiny_run, orphan_run):
    alone = {"enabled": False}
    with (
        served(str(tiny_run.path), {"port": 0, "access": alone}) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        _answers(client, tiny_run)
        _refuses(client)
        _refuses_a_second_one(tiny_run)
        _changes_in_place(client, url, tiny_run, orphan_run)
    assert not listens(url)


def _answers(client, run):
    health = client.get("/healthz").json()
    assert health == {"status": "ok", "run_id": run.record.run_id, "items": run.vocabulary.num_items, "users": 300}
    for body, source in (
        ({"user_id": "u1"}, "user"),
        ({"user_id": "?"}, "popularity"),
        ({"history": ["i3"]}, "history"),
    ):
        answer = client.post("/v1/recommend", json={**body, "k": 3}, headers={"x-request-id": "mine"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["source"] == source
        assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine"
        assert len(answer.json()["items"]) == 3
    expected = [item.item_id for item in run.recommend(["i3"], k=10)]
    found = client.post("/v1/recommend", json={"history": ["i3"]}).json()["items"]
    assert [item["item_id"] for item in found] == expected


def _refuses(client):
    for body in ({}, {"user_id": "u1", "k": 0}, {"user_id": "u1", "k": 101}, {"history": [1]}, []):
        answer = client.post("/v1/recommend", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "bad_request"
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert client.get("/nothing").json()["error"]["code"] == "not_found"
    assert "/v1/recommend" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == 200


def _refuses_a_second_one(run):
    with pytest.raises(UserError, match="already runs on this Ray"), served(str(run.path), {"port": 0}):
        pass


def _changes_in_place(client, url, run, other):
    from serving import app

    config = ServeConfig(port=port_of(url), k=4, access={"enabled": False})
    before = replicas()
    assert len(before) == 1
    app.deploy(other, config)
    assert app.wait_ready(url, other.record.run_id, 60)["users"] == 300, "the store stays"
    assert len(client.post("/v1/recommend", json={"history": ["i3"]}).json()["items"]) == 4
    assert replicas() == before


def test_the_verb_prints_the_url_and_ends_well_on_a_signal(tiny_run):
    import ray

    address = ray.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-m", "raysys", "serve", str(tiny_run.path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": address},
        start_new_session=True,
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url + process.stderr.read()
        assert httpx.get(f"{url}/healthz", timeout=60).json()["status"] == "ok"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)  # an impatient second one does no harm
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out == "", "the URL is the last line"
    assert "curl -s" in err
    assert "Traceback" not in err
    assert not listens(url)
