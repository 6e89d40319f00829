"""From an answer to an ASGI client: the headers that all answers have, and those of pages on other origins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.types import Send

from serving.endpoints import Raw
from serving.errors import ErrorAnswer, ErrorBody, RefusedError
from serving.http.inbound import Inbound

JSON = "application/json"
_ASKED = "authorization, content-type, x-api-key, x-deadline-ms, x-request-id"
_SHOWN = "retry-after, x-request-id"
_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_SAFE = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


@dataclass(frozen=True, slots=True)
class Outbound:
    """One answer."""

    status: int
    content: bytes = b""
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    policy: bytes = _POLICY
    """What a browser may load for it."""

    @staticmethod
    def of(answer: BaseModel | Raw) -> "Outbound":
        """Return what a handler answered."""
        if isinstance(answer, Raw):
            return Outbound(200, answer.content, answer.kind)
        return Outbound(200, to_json(answer))

    @staticmethod
    def refusal(error: RefusedError, request_id: str) -> "Outbound":
        """Return the one shape of whatever is refused or fails."""
        body = ErrorAnswer(error=ErrorBody(code=error.code, message=error.message, request_id=request_id))
        return Outbound(error.status, to_json(body), headers=error.headers)

    async def send(self, send: Send, inbound: Inbound, origins: Iterable[str], is_named: bool) -> None:
        """Send it, with the header x-request-id where `is_named`; of an answer to HEAD the body stays here."""
        headers = [
            (b"content-type", self.kind.encode()),
            (b"content-length", str(len(self.content)).encode()),
            *([(b"x-request-id", inbound.request_id.encode())] if is_named else []),
            (b"content-security-policy", self.policy),
            *_SAFE,
            *((name.encode(), value.encode()) for name, value in self.headers.items()),
            *_for_origin(inbound, origins),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if inbound.method == "HEAD" else self.content})


def preflight(inbound: Inbound, methods: Iterable[str], origins: Iterable[str]) -> Outbound | None:
    """Return the answer to a browser that asks whether a page may call; None where no page of its origin may."""
    asks = inbound.method == "OPTIONS" and b"access-control-request-method" in inbound.headers
    if not asks or not _for_origin(inbound, origins):
        return None
    allowed = {"access-control-allow-methods": ", ".join(methods), "access-control-allow-headers": _ASKED}
    return Outbound(204, headers={**allowed, "access-control-max-age": "600"})


def _for_origin(inbound: Inbound, origins: Iterable[str]) -> list[tuple[bytes, Any]]:
    origin = inbound.headers.get(b"origin", b"")
    if not origin or origin.decode("latin-1") not in origins:
        return []
    shown = (b"access-control-expose-headers", _SHOWN.encode())
    return [(b"access-control-allow-origin", origin), (b"vary", b"origin"), shown]
