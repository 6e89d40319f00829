"""The one shape of everything that is refused or goes wrong: {"error": {"code", "message", "request_id"}}."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

_SHOWN = 80  # characters of a wrong value that a message repeats
_FINDINGS = 5  # what is wrong with a body is told up to here


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

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def __reduce__(self) -> tuple[type["RefusedError"], tuple[int, str, str, dict[str, str]]]:
        return RefusedError, (self.status, self.code, self.message, self.headers)


def shortened(value: object) -> str:
    """Return a wrong value as a message repeats it: from the start of it."""
    try:
        given = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        given = "a number of thousands of digits"
    return given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."


def explain(error: ValidationError, where: str) -> str:
    """Return what is wrong with a body or a query, in a sentence for each finding."""
    findings = error.errors(include_url=False)
    told = [_explain(finding, where) for finding in findings[:_FINDINGS]]
    more = len(findings) - len(told)
    return "; ".join([*told, f"and {more} more"] if more else told)


def _explain(finding: Any, where: str) -> str:
    place = ".".join([where, *(str(part)[:_SHOWN] for part in finding["loc"])])
    message = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "json_invalid":
        return f"{where}: not valid JSON ({finding['ctx']['error']})"
    if finding["type"] == "extra_forbidden":
        return f"{place}: no such key; see /docs for what there is"
    if finding["type"] in ("missing", "value_error"):
        return f"{place}: {message}"
    return f"{place}: {message}, not {shortened(finding['input'])}"
