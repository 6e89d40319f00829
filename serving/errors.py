"""The one shape of everything that is refused or goes wrong: {"error": {"code", "message", "request_id"}}."""

import re
import uuid

from fastapi import Request
from pydantic import BaseModel

_PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}")


class ErrorBody(BaseModel):
    """What went wrong, for a program (code), for people (message) and for the logs (request_id)."""

    code: str
    message: str
    request_id: str


class ErrorAnswer(BaseModel):
    """Answer to a request that was refused or failed."""

    error: ErrorBody


class RefusedError(Exception):
    """A request that cannot be answered; the message says what was given, what is allowed and what to do."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def request_id(request: Request) -> str:
    """Return the id of a request: its x-request-id header where that is plain text, else a new one."""
    known: str | None = getattr(request.state, "request_id", None)
    if known is None:
        given = request.headers.get("x-request-id", "")
        known = given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        request.state.request_id = known
    return known
