"""The OpenAPI document: written by FastAPI, which takes no requests here (docs/decisions/0023-a-thin-gateway.md)."""

import importlib.metadata
import inspect
import re
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Body, FastAPI, Path, Query

from serving.endpoints.endpoint import Endpoint
from serving.errors import ErrorAnswer

_DESCRIPTION = (
    "Recommendations from a trained run. Every answer carries a `request_id`: the `x-request-id` header of the "
    "request, or a new one. Whatever is refused or fails has the shape "
    '`{"error": {"code", "message", "request_id"}}`.'
)


_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key: `authorization: Bearer KEY`."},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
}


def document(endpoints: Collection[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of endpoints."""
    app = FastAPI(
        title="raysys",
        version=importlib.metadata.version("raysys"),
        description=_DESCRIPTION,
        responses={"default": {"model": ErrorAnswer, "description": "Failed"}},
    )
    for one in endpoints:
        app.add_api_route(
            one.path,
            _signed(one),
            methods=[one.method],
            summary=one.summary,
            tags=[one.tag],
            operation_id=one.handle.__name__,
            response_model=one.answer,
            responses=_refusals(one),
            openapi_extra=None if one.scope is None else {"security": [{name: []} for name in _SCHEMES]},
        )
    made = app.openapi()
    made["components"]["securitySchemes"] = _SCHEMES
    for one in endpoints:
        if one.answer is None:
            operation = made["paths"][one.path][one.method.lower()]
            operation["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return made


def _refusals(endpoint: Endpoint) -> dict[int | str, dict[str, Any]]:
    told = {503: "Not ready"}
    if endpoint.needs_run:
        told |= {429: "Too much waits, or too many requests with this key", 504: "Not answered by its deadline"}
    if endpoint.scope is not None:
        told |= {401: "No key, or none that is known", 403: f"The key lacks the scope {endpoint.scope}"}
    if endpoint.body is not None or "{" in endpoint.path:
        told |= {400: "Not what is described here"}
    if endpoint.body is not None and not endpoint.reads_query:
        told |= {413: "Body too large", 415: "Not plain JSON"}
    if "{" in endpoint.path:
        told |= {404: "Not known here"}
    return {status: {"model": ErrorAnswer, "description": told[status]} for status in sorted(told)}


def _signed(endpoint: Endpoint) -> Any:
    """Return a function whose signature says what the endpoint takes; it is never called."""
    kind = inspect.Parameter.KEYWORD_ONLY
    names = re.findall(r"{(\w+)}", endpoint.path)
    parameters = [inspect.Parameter(name, kind, annotation=Annotated[str, Path()]) for name in names]
    if endpoint.body is not None:
        told: Any = Query() if endpoint.reads_query else Body(openapi_examples=dict(endpoint.examples) or None)
        parameters.append(inspect.Parameter("body", kind, annotation=Annotated[endpoint.body, told]))

    def described() -> None: ...

    described.__doc__, described.__name__ = endpoint.handle.__doc__, endpoint.handle.__name__
    described.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return described
