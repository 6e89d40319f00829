"""The HTTP side: from bytes to a checked call of an endpoint, and from its answer, or whatever went wrong, to bytes.

A thin ASGI app of our own, because a framework's share of a request is as large as the model's
(docs/decisions/0023-a-thin-gateway.md).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from serving.access.auth import Guard
from serving.endpoints import ENDPOINTS, Call, Endpoint, Raw, Replica
from serving.errors import RefusedError, shortened
from serving.http import openapi
from serving.http.inbound import Inbound, path_value
from serving.http.journal import Audit, Failures, note_fault
from serving.http.outbound import Outbound, preflight
from serving.http.page import page
from serving.http.refusals import as_refusal
from serving.http.routes import Route, Routes
from serving.metrics import Metrics
from serving.service import Service
from serving.waiting import ClosedError, deadline

_OPEN_PATHS = ("/docs", "/openapi.json")


@dataclass(slots=True)
class _Trace:
    """What becomes known of a request on its way; never the path as it was sent, which may name a user."""

    method: str = "-"
    template: str = "none"
    values: Mapping[str, str] = field(default_factory=dict)
    key_id: str | None = None
    is_admin: bool = False
    code: str | None = None


class Gateway:
    """Takes all requests. Until it has a service, endpoints that need one answer 503."""

    def __init__(
        self,
        service: Service | None = None,
        endpoints: Mapping[str, Endpoint] = ENDPOINTS,
        names_answers: bool = True,
    ) -> None:
        """Take what answers, if it is there already, and whether answers carry the header x-request-id.

        Ray Serve gives every request one, and writes it into the answer itself.
        """
        self._names_answers = names_answers
        self.metrics = Metrics() if service is None else service.metrics
        self.stopping = False
        """Whether it finishes what is under way, and wants nothing new."""
        self.service = service
        self._endpoints = dict(endpoints)
        self._routes = Routes(endpoints.values())
        self._failures = Failures()

    @property
    def service(self) -> Service | None:
        """What answers. Another one takes its place between two requests."""
        return self._service

    @service.setter
    def service(self, service: Service | None) -> None:
        self._service = service
        self._guard: Guard | None = None
        self._audit: Audit | None = None
        self._origins: Sequence[str] = ()
        if service is not None:
            access = service.config.access
            self._guard, self._origins = Guard(access), access.cors
            self._audit = Audit(Path(access.audit), self._guard.ring) if access.audit is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            await self._answer(Inbound.of(scope, receive), send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup" and self._service is not None:
                await self._service.items.start()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _answer(self, inbound: Inbound, send: Send) -> None:
        began, trace = time.perf_counter(), _Trace()
        try:
            response = await self._respond(inbound, trace)
        except Exception as error:
            refusal = as_refusal(error)
            if refusal.status == 500:
                note_fault(f"request {inbound.request_id}", error)
            trace.code = refusal.code
            response = Outbound.refusal(refusal, inbound.request_id)
        self._note(inbound, trace, response.status, time.perf_counter() - began)
        await response.send(send, inbound, self._origins, self._names_answers)

    def _note(self, inbound: Inbound, trace: _Trace, status: int, seconds: float) -> None:
        self.metrics.request(trace.template, status, seconds, trace.code)
        if trace.code is not None:
            self._failures.note(inbound.request_id, trace.method, trace.template, status, trace.code, seconds)
        if trace.is_admin and self._audit is not None:
            self._audit.note(inbound.request_id, trace.key_id, trace.method, trace.template, trace.values, status)

    async def _respond(self, inbound: Inbound, trace: _Trace) -> Outbound:
        if inbound.path in _OPEN_PATHS and inbound.method in ("GET", "HEAD"):
            trace.method, trace.template = inbound.method, inbound.path
            return page() if inbound.path == "/docs" else Outbound(200, self._document)
        route = self._routes.find(inbound)
        trace.template = route.template
        if (allowed := preflight(inbound, route.by_method, self._origins)) is not None:
            return allowed
        endpoint = _endpoint(route, inbound.method)
        trace.method, trace.is_admin = inbound.method, endpoint.scope == "admin"
        if self._service is None and endpoint.needs_run:
            told = "no run is loaded yet; try again in a few seconds"
            raise RefusedError(503, "not_ready", told, {"retry-after": "5"})
        if self._guard is not None:
            trace.key_id = self._guard.admit(inbound.headers, endpoint.scope)
        trace.values = {name: path_value(raw, name) for name, raw in route.values.items()}
        body = await self._body(endpoint, inbound)
        return Outbound.of(await self._handle(endpoint, inbound, trace.values, body))

    async def _body(self, endpoint: Endpoint, inbound: Inbound) -> BaseModel | None:
        if endpoint.body is None or self._service is None:
            return None
        if endpoint.reads_query:
            return inbound.parameters(endpoint.body)
        return await inbound.body(endpoint.body, self._service.config.limits.body_bytes)

    async def _handle(
        self, endpoint: Endpoint, inbound: Inbound, values: Mapping[str, str], body: BaseModel | None
    ) -> BaseModel | Raw:
        if (service := self._service) is not None:
            deadline.set(inbound.deadline(service.config.limits.deadline_ms))
        replica = Replica(service, self.metrics, self.stopping)
        call = Call(service, body, values, inbound.request_id, replica)  # type: ignore[arg-type]
        try:
            return await endpoint.handle(call)
        except ClosedError:
            if self._service is service:
                raise
            return await self._handle(endpoint, inbound, values, body)  # another run has taken its place meanwhile

    @cached_property
    def _document(self) -> bytes:
        return to_json(openapi.document(self._endpoints.values()))


def _endpoint(route: Route, method: str) -> Endpoint:
    endpoint = route.by_method.get("GET" if method == "HEAD" else method)
    if endpoint is None:
        methods = ", ".join(route.by_method)
        told = f"{shortened(method)} is no method of this path: Method Not Allowed (allowed: {methods})"
        raise RefusedError(405, "method_not_allowed", told, {"allow": methods})
    return endpoint
