"""A client that calls an ASGI app with anything, also what no HTTP library would send, and costs next to nothing."""

import asyncio
import json
import time
from dataclasses import dataclass


@dataclass
class Reply:
    """What the app answered."""

    status: int
    headers: dict
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


async def call(app, method="GET", path="/", *, raw_path=None, query=b"", headers=(), body=b"", parts=None):
    """Send one request and return what comes back; `parts` are the pieces of a chunked body."""
    pieces = [body] if parts is None else parts
    messages = [
        {"type": "http.request", "body": piece, "more_body": place + 1 < len(pieces)}
        for place, piece in enumerate(pieces)
    ]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode() if raw_path is None else raw_path,
        "query_string": query,
        "headers": list(headers),
    }
    await app(scope, receive, send)
    return Reply(sent[0]["status"], dict(sent[0]["headers"]), b"".join(part.get("body", b"") for part in sent[1:]))


async def post(app, path, body, **headers):
    """Send a body as JSON."""
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    kind = (b"content-type", b"application/json")
    return await call(app, "POST", path, headers=[kind, *given], body=json.dumps(body).encode())


def ask(app, method="GET", path="/", **given):
    """Send one request from a test that is not asynchronous."""
    return asyncio.run(call(app, method, path, **given))


async def until(condition):
    """Let others go on until something holds."""
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        await asyncio.sleep(0.002)
