"""The HTTP side: from bytes to a checked call of an endpoint, and from its answer, or whatever went wrong, to bytes.

A thin ASGI app of our own, because a framework's share of a request is as large as the model's.
"""

import logging
import re
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from serving import openapi
from serving.endpoints import ENDPOINTS, Call, Endpoint
from serving.errors import ErrorAnswer, ErrorBody, RefusedError, explain
from serving.service import Service
from serving.stores import StoreDownError

_log = logging.getLogger("ray.serve")
_PLAIN_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_JSON, _HTML = b"application/json", b"text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    content: bytes
    kind: bytes = _JSON
    headers: Mapping[str, str] | None = None


class Gateway:
    """Takes all requests. Until it has a service, endpoints answer 503."""

    def __init__(self, service: Service | None = None, endpoints: Mapping[str, Endpoint] = ENDPOINTS) -> None:
        self.service = service
        self._endpoints = dict(endpoints)
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Endpoint]]] = []
        for one in endpoints.values():
            self._add(one)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        if scope["type"] != "http":
            return
        request_id = _request_id(scope)
        try:
            response = await self._respond(scope, receive, request_id)
        except RefusedError as error:
            response = _failure(error.status, error.code, error.message, request_id, error.headers)
        except StoreDownError:  # the breaker logs why
            told = "the store of users does not answer, and nothing was changed; try again"
            response = _failure(503, "store_down", told, request_id, {"retry-after": "1"})
        except Exception:
            _log.exception("request %s failed", request_id)
            told = "this failed here, not in the request; the log has more under its id"
            response = _failure(500, "internal", told, request_id)
        await _send(send, response, request_id)

    async def _respond(self, scope: Scope, receive: Receive, request_id: str) -> _Response:
        if scope["path"] == "/openapi.json" and scope["method"] == "GET":
            return _Response(200, self._document)
        if scope["path"] == "/docs" and scope["method"] == "GET":
            return _Response(200, openapi.page().encode(), _HTML)
        endpoint, path = self._route(scope["method"], scope["path"])
        if self.service is None:
            raise RefusedError(503, "not_ready", "no run is loaded yet; try again in a few seconds")
        body = None
        if endpoint.body is not None:
            body = await _checked(endpoint, endpoint.body, scope, receive, self.service.config.limits.body_bytes)
        answer = await endpoint.handle(Call(self.service, body, path, request_id))
        return _Response(200, to_json(answer))

    def _route(self, method: str, path: str) -> tuple[Endpoint, Mapping[str, str]]:
        by_method, values = self._exact.get(path), {}
        if by_method is None:
            for pattern, found in self._patterns:
                if match := pattern.fullmatch(path):
                    by_method, values = found, {name: unquote(value) for name, value in match.groupdict().items()}
                    break
        if by_method is None:
            raise RefusedError(404, "not_found", f"{method} {path}: Not Found; see /docs for what there is")
        if method not in by_method:
            allowed = ", ".join(by_method)
            text = f"{method} {path}: Method Not Allowed (allowed: {allowed}); see /docs for what there is"
            raise RefusedError(405, "method_not_allowed", text, {"allow": allowed})
        return by_method[method], values

    def _add(self, endpoint: Endpoint) -> None:
        if "{" not in endpoint.path:
            self._exact.setdefault(endpoint.path, {})[endpoint.method] = endpoint
            return
        pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", endpoint.path))
        for known, by_method in self._patterns:
            if known == pattern:
                by_method[endpoint.method] = endpoint
                return
        self._patterns.append((pattern, {endpoint.method: endpoint}))

    @cached_property
    def _document(self) -> bytes:
        return to_json(openapi.document(self._endpoints.values()))


async def _checked(endpoint: Endpoint, model: type[BaseModel], scope: Scope, receive: Receive, most: int) -> BaseModel:
    try:
        if endpoint.reads_query:
            return model.model_validate(dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)))
        return model.model_validate_json(await _read(scope, receive, most))
    except ValidationError as error:
        where = "query" if endpoint.reads_query else "body"
        raise RefusedError(400, "bad_request", explain(error, where)) from None


async def _read(scope: Scope, receive: Receive, most: int) -> bytes:
    """Read the body; one that is too large is not read to its end."""
    parts: list[bytes] = []
    size = 0
    while True:
        message: MutableMapping[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "disconnected", "the client went away before its body was here")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise RefusedError(413, "too_large", f"body: larger than {most:,} bytes (limits.body_bytes)")
        if not message.get("more_body", False):
            return b"".join(parts)


def _request_id(scope: Scope) -> str:
    """Return the x-request-id header where that is plain text, else a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _PLAIN_ID.fullmatch(value):
            return value.decode()
    return uuid.uuid4().hex


def _failure(
    status: int, code: str, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> _Response:
    body = ErrorAnswer(error=ErrorBody(code=code, message=message, request_id=request_id))
    return _Response(HTTPStatus(status), to_json(body), headers=headers)


async def _send(send: Send, response: _Response, request_id: str) -> None:
    headers = [
        (b"content-type", response.kind),
        (b"content-length", str(len(response.content)).encode()),
        (b"x-request-id", request_id.encode()),
        *((name.encode(), value.encode()) for name, value in (response.headers or {}).items()),
    ]
    await send({"type": "http.response.start", "status": int(response.status), "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
