"""From an ASGI scope to what an endpoint takes: the request's id, key, deadline, path, query and body, all checked."""

import math
import re
import time
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from serving.errors import RefusedError, explain, shortened

_PLAIN_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_JSON_TYPE = re.compile(rb"application/(?:[\w.-]+\+)?json\s*(?:;\s*charset=\"?utf-?8\"?\s*)?;?\s*", re.IGNORECASE)
_NUMBER = re.compile(rb"\d{1,9}(?:\.\d{1,6})?")
_MOST_PARAMETERS = 100


@dataclass(frozen=True, slots=True)
class Inbound:
    """One request before its body is read."""

    request_id: str
    method: str
    path: str
    raw_path: str
    """As it was sent, with %XX, a character for each byte."""
    query: bytes
    headers: Mapping[bytes, bytes]
    receive: Receive

    @staticmethod
    def of(scope: Scope, receive: Receive) -> "Inbound":
        """Read a scope; nothing in it is refused yet, so that every refusal has a request id."""
        headers = dict(scope["headers"])
        raw = scope.get("raw_path")
        path = scope["path"]
        return Inbound(
            request_id=_request_id(headers),
            method=scope["method"],
            path=path,
            raw_path=quote(path, safe="/") if raw is None else raw.decode("latin-1"),
            query=scope["query_string"],
            headers=headers,
            receive=receive,
        )

    def deadline(self, most_ms: float) -> float:
        """Return until when an answer is of use: what x-deadline-ms says, but never beyond the server's own.

        Raises:
            RefusedError: the header is no positive number.
        """
        given = self.headers.get(b"x-deadline-ms")
        wanted = math.inf
        if given is not None:
            wanted = float(given) if _NUMBER.fullmatch(given) else 0.0
            if wanted <= 0:
                shown = shortened(given.decode("latin-1"))
                raise _bad(f"x-deadline-ms: a positive number of milliseconds is expected, not {shown}")
        return time.monotonic() + min(wanted, most_ms) / 1000

    async def body(self, model: type[BaseModel], most: int) -> BaseModel:
        """Return the body.

        Raises:
            RefusedError: it is no JSON, does not fit the model, or is too large; that is not read to its end.
        """
        self._check_kind()
        content = await self._read(most)
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            raise _bad(explain(error, "body")) from None

    def parameters(self, model: type[BaseModel]) -> BaseModel:
        """Return what the query string says.

        Raises:
            RefusedError: it does not fit the model.
        """
        try:
            pairs = parse_qsl(
                self.query.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
            )
        except UnicodeDecodeError:
            raise _bad("query: not UTF-8") from None
        except ValueError:
            raise _bad(f"query: more than {_MOST_PARAMETERS} parameters") from None
        values = dict(pairs)
        if len(values) < len(pairs):
            raise _bad("query: a parameter is given twice")
        try:
            return model.model_validate_strings(values)
        except ValidationError as error:
            raise _bad(explain(error, "query")) from None

    def _check_kind(self) -> None:
        kind = self.headers.get(b"content-type", b"")
        if not _JSON_TYPE.fullmatch(kind.strip()):
            shown = shortened(kind.decode("latin-1"))
            raise _unsupported(f"content-type: application/json in UTF-8 is expected, not {shown}")
        encoding = self.headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding != b"identity":
            shown = shortened(encoding.decode("latin-1"))
            raise _unsupported(f"content-encoding: send the body as it is, not {shown}")

    async def _read(self, most: int) -> bytes:
        told = self.headers.get(b"content-length", b"")
        if told.isdigit() and (len(told) > 18 or int(told) > most):
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        while True:
            message: MutableMapping[str, Any] = await self.receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "disconnected", "the client went away before its body was here")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise _too_large(most)
            if not message.get("more_body", False):
                return b"".join(parts)


def path_value(raw: str, name: str) -> str:
    """Return what stands in a path for {name}.

    Raises:
        RefusedError: it is not UTF-8.
    """
    try:
        return unquote_to_bytes(raw.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise _bad(f"path.{name}: not UTF-8") from None


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """Return the x-request-id header where that is plain text, else a new id."""
    given = headers.get(b"x-request-id")
    return given.decode() if given is not None and _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex


def _bad(message: str) -> RefusedError:
    return RefusedError(400, "bad_request", message)


def _unsupported(message: str) -> RefusedError:
    return RefusedError(415, "unsupported", message)


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, "too_large", f"body: larger than {most:,} bytes (limits.body_bytes)")
