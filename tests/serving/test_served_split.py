"""The real Ray Serve with scorers of their own: asked, killed, healed, and changed to another run."""

import contextlib
import threading
import time
from collections import Counter

import httpx
import psutil
import pytest

from serving.commands.serve import served
from serving.config import ServeConfig

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]
BODY = {"history": ["i3"], "k": 3}
SPLIT = {"access": {"enabled": False}, "autoscaling": {"max_replicas": 1}, "scorer": {}}


def processes(name):
    """Return the processes of a deployment."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(f"ServeReplica:recommender:{name}" in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


class Asking(threading.Thread):
    """Asks until it is stopped, and counts what comes."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.statuses, self.runs, self.codes = Counter(), Counter(), Counter()
        self._url, self._end = url, threading.Event()
        self.start()

    def run(self):
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._end.is_set():
                reply = client.post("/v1/recommend", json=BODY)
                self.statuses[reply.status_code] += 1
                if reply.status_code == 200:
                    self.runs[reply.json()["run_id"]] += 1
                else:
                    self.codes[reply.json()["error"]["code"]] += 1
                    assert "retry-after" in reply.headers
                    time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._end.set()
        self.join(60)


def test_scorers_answer_die_heal_and_change_their_run(tiny_run, orphan_run):
    with (
        served(str(tiny_run.path), {"port": 0, **SPLIT}) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        expected = [item.item_id for item in tiny_run.recommend(["i3"], k=3)]
        found = client.post("/v1/recommend", json=BODY).json()["items"]
        assert [item["item_id"] for item in found] == expected
        assert client.post("/v1/popular", json={"k": 3}).status_code == 200
        assert client.post("/v1/recommend", json={"k": 3}).status_code == 400
        assert client.get("/v1/models").json()["models"][0]["retrieval"]["kind"] == "exact"
        (replica,), (scorer,) = processes("Replica"), processes("Scorer")
        _heals(client, url, scorer)
        assert processes("Replica") == [replica], "a replica does not go with its scorer"
        _changes(client, url, tiny_run, orphan_run)
        assert processes("Replica") == [replica]


def _heals(client, url, scorer):
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(Asking(url)) for _ in range(4)]
        time.sleep(0.5)
        scorer.kill()
        ends = time.monotonic() + 120
        while client.get("/readyz").status_code == 200:
            assert time.monotonic() < ends, "its end was not noticed"
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < ends, "not healed"
            time.sleep(0.2)
    statuses, codes = (sum((getattr(one, name) for one in asking), Counter()) for name in ("statuses", "codes"))
    assert set(statuses) <= {200, 503}, (statuses, codes)
    assert set(codes) <= {"scorers_down"}
    assert statuses[200] > 0
    assert client.post("/v1/recommend", json=BODY).status_code == 200


def _changes(client, url, run, other):
    from serving import app

    with Asking(url) as asking:
        app.deploy(other, ServeConfig(port=int(url.rpartition(":")[2]), **SPLIT))
        app.wait_ready(url, other.record.run_id, 60)
        time.sleep(0.5)
    assert set(asking.statuses) == {200}, "no request fails while runs change"
    assert set(asking.runs) == {run.record.run_id, other.record.run_id}
    assert client.get("/healthz").json()["run_id"] == other.record.run_id
