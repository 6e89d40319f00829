"""What comes over the wire malformed, too large or strange: each is refused clearly, in one shape, without a 500."""

import asyncio
import json
import socket
import threading
import time

import pytest
import uvicorn
from asgi import ask, call
from starlette.testclient import TestClient

from serving.endpoints import Body, Endpoint, Reply
from serving.endpoints.fields import Count, ItemId, UserId
from serving.http.gateway import Gateway

PATH = "/v1/recommend"
JSON = (b"content-type", b"application/json")


class _Query(Body):
    k: Count = 1


class _Body(Body):
    value: float


class _Echo(Reply):
    user_id: str
    k: int


async def _read(call):
    """Echo."""
    return _Echo(user_id=call.path["user_id"], k=call.body.k)


async def _weigh(call):
    """Echo."""
    return _Echo(user_id=str(call.body.value), k=1)


ECHOES = {
    "read": Endpoint("GET", "/v1/echo/{user_id}", "Echo", _read, _Echo, _Query),
    "weigh": Endpoint("POST", "/v1/weigh", "Echo", _weigh, _Echo, _Body),
}


@pytest.fixture
def gateway(service):
    return Gateway(service)


@pytest.fixture
def echo(service):
    return Gateway(service, ECHOES)


def refused(reply, status, code):
    assert reply.status == status, reply.content
    assert set(reply.json["error"]) == {"code", "message", "request_id"}
    assert reply.json["error"]["code"] == code
    assert reply.json["error"]["request_id"].encode() == reply.headers[b"x-request-id"]
    return reply.json["error"]["message"]


BAD_BODIES = {
    "NUL in an id": b'{"user_id": "a\\u0000b"}',
    "NUL": b'{"user_id": "a\x00b"}',
    "lone surrogate": b'{"user_id": "\\udc00"}',
    "not UTF-8": b'{"user_id": "\xff"}',
    "UTF-16": '{"user_id": "u1"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + b'{"user_id": "u1"}',
    "huge integer": b'{"history": [], "k": 1' + b"0" * 5000 + b"}",
    "large integer": b'{"history": [], "k": 100000000000000000000000}',
    "huge exponent": b'{"history": [], "k": 1e999999}',
    "NaN": b'{"history": [], "k": NaN}',
    "infinite": b'{"history": [], "k": -Infinity}',
    "deep arrays": b'{"history": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "two values": b'{"user_id": "u1"}{"user_id": "u1"}',
    "single quotes": b"{'user_id': 'u1'}",
    "a comma too many": b'{"user_id": "u1",}',
    "a comment": b'{"user_id": "u1"} // me',
    "a long id": b'{"user_id": "' + b"x" * 513 + b'"}',
    "a long id in a history": b'{"history": ["' + b"x" * 513 + b'"]}',
    "a long history": json.dumps({"history": ["i1"] * 1001}).encode(),
    "wrong items": json.dumps({"history": [1] * 900}).encode(),
    "many keys": json.dumps({f"key{number}": 1 for number in range(5000)}).encode(),
    "a long key": b'{"' + b"k" * 100_000 + b'": 1}',
    "k of a thousand million": b'{"user_id": "u1", "k": 1000000000}',
    "blank": b"  \n",
    "nothing": b"",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_bodies_are_refused(gateway, body):
    message = refused(ask(gateway, "POST", PATH, headers=[JSON], body=body), 400, "bad_request")
    assert len(message) < 1000


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_are_finite(echo, number):
    refused(ask(echo, "POST", "/v1/weigh", headers=[JSON], body=b'{"value": ' + number + b"}"), 400, "bad_request")


def test_of_two_values_for_a_key_the_last_counts(gateway):
    body = b'{"user_id": "u1", "k": 1, "k": 3}'
    assert len(ask(gateway, "POST", PATH, headers=[JSON], body=body).json["items"]) == 3


@pytest.mark.parametrize("user_id", ["ü", "\U0001f600", "\u202e", "a b", "a\nb", "'; DROP TABLE events; --", "x" * 512])
def test_any_text_is_an_id(gateway, user_id):
    body = json.dumps({"user_id": user_id}).encode()
    assert ask(gateway, "POST", PATH, headers=[JSON], body=body).json["source"] == "popularity"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (b"application/json", 200),
        (b"application/json; charset=utf-8", 200),
        (b'Application/JSON;charset="UTF-8"', 200),
        (b"application/vnd.api+json", 200),
        (b"application/json; charset=latin-1", 415),
        (b"text/plain", 415),
        (b"application/x-www-form-urlencoded", 415),
        (b"multipart/form-data; boundary=x", 415),
        (b"application/jsonp", 415),
        (b"\xff", 415),
        (b"", 415),
    ],
)
def test_bodies_are_json_by_their_content_type(gateway, kind, status):
    reply = ask(gateway, "POST", PATH, headers=[(b"content-type", kind)], body=b'{"user_id": "u1"}')
    assert reply.status == status
    if status != 200:
        assert "application/json" in refused(reply, 415, "unsupported")


def test_compressed_bodies_are_refused(gateway):
    for encoding in (b"gzip", b"br", b"identity, gzip"):
        headers = [JSON, (b"content-encoding", encoding)]
        refused(ask(gateway, "POST", PATH, headers=headers, body=b"\x1f\x8b"), 415, "unsupported")


def test_a_large_body_is_not_read(gateway):
    most = gateway.service.config.limits.body_bytes
    told = ask(gateway, "POST", PATH, headers=[JSON, (b"content-length", b"9" * 30)], parts=[])
    assert f"{most:,} bytes" in refused(told, 413, "too_large")
    parts = [b"x" * 60_000 for _ in range(100)]
    refused(ask(gateway, "POST", PATH, headers=[JSON], parts=parts), 413, "too_large")


def test_a_body_comes_in_pieces(gateway):
    parts = [b'{"user', b"", b'_id": "u1', b'"}']
    assert ask(gateway, "POST", PATH, headers=[JSON], parts=parts).json["source"] == "user"


def test_a_client_that_leaves_before_its_body_is_there(gateway):
    refused(ask(gateway, "POST", PATH, headers=[JSON], parts=[]), 400, "disconnected")


@pytest.mark.parametrize(
    "path", ["/", "//", "/v1/recommend/", "/V1/RECOMMEND", "/v1/../healthz", "/é", "/%00", "/" + "x" * 60_000, ""]
)
def test_other_paths_lead_nowhere(gateway, path):
    message = refused(ask(gateway, "GET", path), 404, "not_found")
    assert len(message) < 300


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "x" * 5000])
def test_other_methods_are_refused(gateway, method):
    reply = ask(gateway, method, PATH)
    refused(reply, 405, "method_not_allowed")
    assert reply.headers[b"allow"] == b"POST"


def test_head_is_get_without_the_body(gateway):
    for path in ("/healthz", "/openapi.json", "/docs"):
        head, get = ask(gateway, "HEAD", path), ask(gateway, "GET", path)
        assert (head.status, head.content) == (200, b"")
        assert head.headers[b"content-length"] == str(len(get.content)).encode()
    assert ask(gateway, "HEAD", PATH).status == 405


@pytest.mark.parametrize(
    ("sent", "user_id"),
    [(b"u1", "u1"), (b"a%2Fb", "a/b"), (b"a%252Fb", "a%2Fb"), (b"%C3%BC", "ü"), (b"a%20b+c", "a b+c"), (b"%", "%")],
)
def test_what_stands_in_a_path_is_decoded_once(echo, sent, user_id):
    reply = ask(echo, "GET", "/v1/echo/...", raw_path=b"/v1/echo/" + sent)
    assert reply.json["user_id"] == user_id


def test_a_path_that_is_not_utf8_is_refused(echo):
    for sent in (b"%FF", b"\xff", b"%ED%A0%80"):
        refused(ask(echo, "GET", "/v1/echo/...", raw_path=b"/v1/echo/" + sent), 400, "bad_request")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (b"k=%FF", "not UTF-8"),
        (b"k=\xff", "not UTF-8"),
        (b"k=1&k=2", "twice"),
        (b"k=0", "query.k"),
        (b"k=", "query.k"),
        (b"k=1.5", "query.k"),
        (b"k=99999999999999999999999999", "query.k"),
        (b"k=" + b"9" * 5000, "query.k"),
        (b"limit=1", "query.limit: no such key"),
        (b"&".join(b"a%d=1" % number for number in range(101)), "more than 100"),
    ],
)
def test_bad_queries_are_refused(echo, query, told):
    assert told in refused(ask(echo, "GET", "/v1/echo/u1", query=query), 400, "bad_request")


def test_queries_are_read(echo):
    assert ask(echo, "GET", "/v1/echo/u1", query=b"k=7").json == {"user_id": "u1", "k": 7}
    assert ask(echo, "GET", "/v1/echo/u1").json["k"] == 1


def test_websockets_are_closed(gateway):
    sent = []

    async def send(message):
        sent.append(message["type"])

    asyncio.run(gateway({"type": "websocket", "path": "/"}, None, send))
    assert sent == ["websocket.close"]


def test_every_limit_of_a_field_is_in_the_document(gateway):
    document = ask(gateway, "GET", "/openapi.json").json
    sent = json.dumps([methods[method] for methods in document["paths"].values() for method in methods])
    names = {name for name in document["components"]["schemas"] if f"/schemas/{name}" in sent}
    for name in names:
        for field in document["components"]["schemas"][name]["properties"].values():
            for shape in _shapes(field) if name.endswith("Request") else ():
                if shape.get("type") == "string":
                    assert shape.keys() & {"maxLength", "enum", "const", "pattern"}, (name, field)
                if shape.get("type") == "array":
                    assert "maxItems" in shape, (name, field)
                if shape.get("type") == "integer":
                    assert "minimum" in shape, (name, field)


def _shapes(field):
    yield field
    for inner in (*field.get("anyOf", ()), *([field["items"]] if "items" in field else [])):
        yield from _shapes(inner)


def test_ids_have_one_shape():
    assert ItemId == UserId


@pytest.fixture(scope="module")
def address(service):
    """A real uvicorn over the gateway."""
    server = uvicorn.Server(uvicorn.Config(Gateway(service), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ends = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < ends
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join(20)


def over_the_wire(address, sent):
    """Send bytes, half of a conversation, and return what comes back until the server closes or says no more."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(sent)
        connection.settimeout(2)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except TimeoutError:
            pass
    return received


CHUNKS = (b"fff\r\n" + b"x" * 4095 + b"\r\n") * 70
HEAD = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LATER = [
    ("chunked", HEAD + b"transfer-encoding: chunked\r\n\r\n11\r\n" + b'{"user_id": "u1"}' + b"\r\n0\r\n\r\n", b" 200 "),
    ("expect", HEAD + b"expect: 100-continue\r\ncontent-length: 17\r\n\r\n" + b'{"user_id": "u1"}', b" 200 "),
    ("expect too much", HEAD + b"expect: 100-continue\r\ncontent-length: 9999999\r\n\r\n", b" 413 "),
    ("declared too large", HEAD + b"content-length: 9999999\r\n\r\n{", b" 413 "),
    (
        "chunks too large",
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"fff\r\n" + b"x" * 4095 + b"\r\n") * 70,
        b" 413 ",
    ),
    ("path not UTF-8", b"GET /v1/%FF%FE HTTP/1.1\r\nhost: x\r\n\r\n", b" 404 "),
    ("raw bytes", b"GET /v1/\xff HTTP/1.1\r\nhost: x\r\n\r\n", b" 40"),
    ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b" 400 "),
    ("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", b" 200 "),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("sent", "status"), [case[1:] for case in LATER], ids=[case[0] for case in LATER])
def test_a_real_server_hands_it_on_well(address, sent, status):
    received = over_the_wire(address, sent)
    last = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ") and b" 100 " not in line]
    assert len(last) == 1, received
    assert status in last[0]


@pytest.mark.thorough
def test_the_server_answers_on_after_all_that(address):
    for sent in (b"", b"GET", HEAD + b"content-length: 100\r\n\r\n{", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000):
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(sent)
    answer = over_the_wire(address, HEAD + b"content-length: 17\r\nconnection: close\r\n\r\n" + b'{"user_id": "u1"}')
    assert b" 200 " in answer.split(b"\r\n")[0]


def test_health_does_not_wait_for_large_bodies(gateway):
    """While bodies as large as allowed are checked, each in one piece, nothing else runs: that stays short."""
    worst = [
        json.dumps({"history": ["x" * 240] * 1000}).encode(),
        json.dumps({"history": [1] * 80_000}).encode(),
        json.dumps({f"k{number}": number for number in range(16_000)}).encode(),
        b'{"history": ' + b"[" * 100_000,
        b'{"user_id": "' + b"\\u00fc" * 40_000 + b'"}',
    ]

    async def longest(body):
        began = time.perf_counter()
        reply = await call(gateway, "POST", PATH, headers=[JSON], body=body)
        return reply.status, time.perf_counter() - began

    for body in worst:
        assert len(body) <= gateway.service.config.limits.body_bytes
        asyncio.run(longest(body))
        assert min(asyncio.run(longest(body))[1] for _ in range(5)) < 0.1


def test_starlette_clients_can_ask(service):
    assert TestClient(Gateway(service)).post(PATH, json={"user_id": "ü/%2F"}).json()["source"] == "popularity"
