"""The HTTP side: one FastAPI app with every endpoint, and one shape for everything that goes wrong."""

import importlib.metadata
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving.endpoints import ENDPOINTS
from serving.errors import ErrorAnswer, ErrorBody, RefusedError, request_id
from serving.service import Service

_DESCRIPTION = (
    "Recommendations from a trained run. Every answer carries a `request_id`: the `x-request-id` header of the "
    "request, or a new one. Whatever is refused or fails has the shape "
    '`{"error": {"code", "message", "request_id"}}`.'
)
_SHOWN = 80  # characters of a wrong value that a message repeats


def create_app(service: Service | None = None) -> FastAPI:
    """Build the app. Until `app.state.service` holds a service, endpoints answer 503."""
    app = FastAPI(
        title="raysys",
        version=importlib.metadata.version("raysys"),
        description=_DESCRIPTION,
        redoc_url=None,
        responses={"default": {"model": ErrorAnswer, "description": "Refused or failed"}},
    )
    app.state.service = service
    for router in ENDPOINTS.values():
        app.include_router(router)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such_thing)
    app.add_exception_handler(Exception, _failed)
    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return _error(request, error.status, error.code, error.message)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _error(request, 400, "bad_request", "; ".join(_explain(finding) for finding in error.errors()))


async def _no_such_thing(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    message = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
    answer = _error(request, error.status_code, code, message)
    answer.headers.update(error.headers or {})  # 405 says what is allowed
    return answer


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return _error(request, 500, "internal", "this failed here, not in the request; the log has more under its id")


def _error(request: Request, status: int, code: str, message: str) -> JSONResponse:
    body = ErrorAnswer(error=ErrorBody(code=code, message=message, request_id=request_id(request)))
    return JSONResponse(body.model_dump(), status)


def _explain(finding: Any) -> str:
    place = ".".join(str(step) for step in finding["loc"])
    message = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "json_invalid":
        return f"body: not valid JSON at character {finding['loc'][-1]} ({finding['ctx']['error']})"
    if finding["type"] == "extra_forbidden":
        return f"{place}: no such key; see /docs for what there is"
    if finding["type"] in ("missing", "value_error"):
        return f"{place}: {message}"
    given = repr(finding["input"])
    return f"{place}: {message}, not {given if len(given) <= _SHOWN else given[:_SHOWN] + '...'}"
