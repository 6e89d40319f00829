"""Keys: who gets in, how often, and that running replicas follow the file. All through the gateway."""

import json
import stat
from datetime import timedelta

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from raysys.configfile import build
from raysys.errors import UserError
from serving.access import auth
from serving.access.keys import SCOPES, add_key, first_key, read_keys, revoke_key, rotate_key
from serving.checks import check_access
from serving.commands.keys import app as keys_command
from serving.config import ServeConfig
from serving.endpoints import ENDPOINTS
from serving.http.gateway import Gateway

BODY = {"user_id": "u1"}


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def guarded(tiny_run, serve, tmp_path, keys, monkeypatch):
    """A client of an endpoint that asks for keys, and looks at their file for every request."""
    monkeypatch.setattr(auth, "_LOOK_EVERY_S", 0.0)
    access = {"keys": str(keys), "audit": str(tmp_path / "audit.jsonl")}
    return TestClient(Gateway(serve(tiny_run, tmp_path / "state", access=access)), raise_server_exceptions=False)


def status(client, key, **headers):
    return client.post("/v1/recommend", json=BODY, headers={"authorization": f"Bearer {key}", **headers}).status_code


def test_every_endpoint_with_a_scope_asks_for_a_key(guarded, keys):
    nothing = add_key(keys, "nothing", ())
    for endpoint in ENDPOINTS.values():
        path = endpoint.path.replace("{", "").replace("}", "")
        answer = guarded.request(endpoint.method, path)
        if endpoint.scope is None:
            assert answer.status_code == 200, path
            continue
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["error"]["code"] == "unauthorized"
        forbidden = guarded.request(endpoint.method, path, headers={"x-api-key": nothing})
        assert forbidden.status_code == 403
        assert f"scope {endpoint.scope};" in forbidden.json()["error"]["message"]


def test_the_document_and_its_page_need_no_key(guarded):
    assert guarded.get("/docs").status_code == guarded.get("/openapi.json").status_code == 200


def test_a_key_is_taken_from_either_header(guarded, keys):
    key = add_key(keys, "shop", ["read"])
    assert status(guarded, key) == 200
    for headers in ({"x-api-key": key}, {"authorization": f"bearer  {key} "}):
        assert guarded.post("/v1/recommend", json=BODY, headers=headers).status_code == 200


def test_what_is_no_key_is_refused_and_not_repeated(guarded, keys):
    good = add_key(keys, "shop", ["read"])
    other = add_key(keys, "other", ["read"])
    mixed = f"{good[:11]}_{other.split('_', 2)[2]}"
    for bad in ("", "x", "rs_", "rs__", "rs_00000000_x", good[:-1], good + "x", good.upper(), mixed, "é", "rs_" * 999):
        answer = guarded.post("/v1/recommend", json=BODY, headers={"x-api-key": bad.encode()})
        assert answer.status_code == 401, bad
        assert len(bad) < 3 or bad not in answer.text
    assert guarded.post("/v1/recommend", json=BODY, headers={"authorization": f"Basic {good}"}).status_code == 401


def test_keys_change_without_a_restart(guarded, keys):
    first = add_key(keys, "first", ["read"])
    assert status(guarded, first) == 200
    second = add_key(keys, "second", ["read"])
    assert status(guarded, second) == 200
    revoke_key(keys, first.split("_")[1])
    assert (status(guarded, first), status(guarded, second)) == (401, 200)


def test_rotation_overlaps(guarded, keys):
    old = add_key(keys, "shop", ["read"], rate=1000.0)
    new = rotate_key(keys, old.split("_")[1], timedelta(hours=1))
    assert (status(guarded, old), status(guarded, new)) == (200, 200)
    newest = rotate_key(keys, new.split("_")[1], timedelta(0))
    assert (status(guarded, new), status(guarded, newest)) == (401, 200)
    kept = read_keys(keys).keys
    assert {(key.name, key.scopes, key.rate) for key in kept} == {("shop", ("read",), 1000.0)}


def test_an_expired_key_is_told_so(guarded, keys):
    key = rotate_key(keys, add_key(keys, "a", ["read"], days=0.001).split("_")[1], timedelta(0))
    assert status(guarded, key) == 200
    rotate_key(keys, key.split("_")[1], timedelta(0))
    answer = guarded.post("/v1/recommend", json=BODY, headers={"x-api-key": key})
    assert "expired" in answer.json()["error"]["message"]


@pytest.mark.parametrize("damage", [b"{", b"", b'{"keys": [{"id": 1}]}', None])
def test_a_broken_file_leaves_things_as_they_were(guarded, keys, damage, caplog):
    key = add_key(keys, "shop", ["read"])
    assert status(guarded, key) == 200
    keys.unlink() if damage is None else keys.write_bytes(damage)
    assert status(guarded, key) == 200
    assert "going on with the 1 known before" in caplog.text
    if damage is not None:
        with pytest.raises(UserError, match="not a file of keys"):
            add_key(keys, "more", ["read"])


def test_without_a_file_nobody_gets_in(guarded, keys):
    assert not keys.exists()
    assert status(guarded, "rs_00000000_x") == 401


def test_the_file_is_private_and_holds_no_secret(keys):
    key = add_key(keys, "shop", ["read", "admin"])
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert key.split("_", 2)[2] not in keys.read_text()
    assert len(key.split("_", 2)[2]) == 43, "256 random bits"
    assert sorted(path.name for path in keys.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_key_that_asks_too_often_waits(guarded, keys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    slow, fast = add_key(keys, "slow", ["read"], rate=2, burst=3), add_key(keys, "fast", ["read"])
    assert [status(guarded, slow) for _ in range(4)] == [200, 200, 200, 429]
    answer = guarded.post("/v1/recommend", json=BODY, headers={"x-api-key": slow})
    assert answer.json()["error"]["code"] == "rate_limited"
    assert answer.headers["retry-after"] == "1"
    assert status(guarded, fast) == 200
    now[0] += 0.5
    assert [status(guarded, slow) for _ in range(2)] == [200, 429]
    now[0] += 100
    assert [status(guarded, slow) for _ in range(4)] == [200, 200, 200, 429]


def test_only_this_machine_may_listen_without_keys():
    for host in ("127.0.0.1", "localhost", "::1"):
        assert not ServeConfig(host=host, access={"enabled": False}).access.enabled
    for host in ("0.0.0.0", "::", "192.0.2.1", "shop.example"):
        with pytest.raises(UserError, match=r"without keys only this machine may ask"):
            build(ServeConfig, {"host": host, "access": {"enabled": False}}, "serve")


def test_the_first_start_makes_a_key_for_everything(tmp_path, capsys):
    config = ServeConfig().with_places(str(tmp_path), "shop")
    assert config.access.keys == str(tmp_path / "serving" / "shop" / "keys.json")
    check_access(config)
    told = capsys.readouterr().err
    assert told.count("export RAYSYS_KEY=rs_") == 1
    (key,) = read_keys(tmp_path / "serving" / "shop" / "keys.json").keys
    assert key.scopes == SCOPES
    check_access(config)
    assert "rs_" not in capsys.readouterr().err
    check_access(ServeConfig(access={"enabled": False}).with_places(str(tmp_path / "other"), "shop"))
    assert not (tmp_path / "other").exists()


def test_the_command_adds_lists_rotates_and_revokes(tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(keys_command, [*arguments, "--root", str(tmp_path)])
        if isinstance(done.exception, UserError):
            return str(done.exception)
        assert done.exit_code == 0, done.output
        return done.stdout

    key = run("add", "shop", "--name", "web", "--scope", "read", "--scope", "events", "--rate", "50").strip()
    key_id = key.split("_")[1]
    (listed,) = json.loads(run("list", "shop", "--json"))
    assert listed["id"] == key_id
    assert (listed["name"], listed["scopes"], listed["rate"]) == ("web", ["read", "events"], 50)
    assert "sha256" not in listed
    assert key_id in run("list", "shop")
    new = run("rotate", "shop", key_id).strip()
    assert new.startswith("rs_")
    assert new != key
    run("revoke", "shop", key_id)
    assert [one["id"] for one in json.loads(run("list", "shop", "--json"))] == [new.split("_")[1]]
    assert "no such key" in run("revoke", "shop", key_id)
    assert "did you mean 'read'" in run("add", "shop", "--name", "x", "--scope", "reed")
    assert "has no effect without a rate" in run("add", "shop", "--name", "x", "--burst", "5")
    assert "rate: at least" in run("add", "shop", "--name", "x", "--rate", "-1")
    assert "cannot read the keys" in run("list", "nothing")


def test_first_key_refuses_a_broken_file(keys):
    keys.write_text("{")
    with pytest.raises(UserError, match="not a file of keys"):
        first_key(keys)
