"""The OpenAPI document and its page: written by FastAPI, which takes no requests here (docs/decisions/0023)."""

import importlib.metadata
import inspect
import re
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Body, FastAPI, Path, Query
from fastapi.openapi.docs import get_swagger_ui_html

from serving.endpoints.endpoint import Endpoint
from serving.errors import ErrorAnswer

_DESCRIPTION = (
    "Recommendations from a trained run. Every answer carries a `request_id`: the `x-request-id` header of the "
    "request, or a new one. Whatever is refused or fails has the shape "
    '`{"error": {"code", "message", "request_id"}}`.'
)


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of endpoints."""
    app = FastAPI(
        title="raysys",
        version=importlib.metadata.version("raysys"),
        description=_DESCRIPTION,
        responses={"default": {"model": ErrorAnswer, "description": "Refused or failed"}},
    )
    for one in endpoints:
        app.add_api_route(
            one.path,
            _signed(one),
            methods=[one.method],
            summary=one.summary,
            tags=[one.tag],
            response_model=one.answer,
        )
    return app.openapi()


def page() -> str:
    """Return the interactive page."""
    return bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="raysys").body).decode()


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
