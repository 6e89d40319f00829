"""The contract of an endpoint: one file with its request, its answer and its handler, and one line in ENDPOINTS."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from serving.access.keys import Scope as Scope

if TYPE_CHECKING:
    from serving.metrics import Metrics
    from serving.service import Service


class Body(BaseModel):
    """What a client sends: immutable, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Reply(BaseModel):
    """What a client gets."""

    model_config = ConfigDict(use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is not JSON."""

    content: bytes
    kind: str
    """Its media type."""


@dataclass(frozen=True, slots=True)
class Replica:
    """What an endpoint can tell of the replica that answers, whether it has a run or not."""

    service: "Service | None"
    metrics: "Metrics"
    stopping: bool
    """Whether it finishes what is under way, and takes nothing new."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    service: "Service"
    """Not there yet where the endpoint needs no run."""
    body: Any
    """An instance of the endpoint's `body`; of the `query` where it has one."""
    path: Mapping[str, str]
    """What stands in the path for {name}."""
    request_id: str
    replica: Replica


@dataclass(frozen=True)
class Endpoint:
    """How a path is answered. Registered in ENDPOINTS; the gateway does what all have in common."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    """With {name} where something varies."""
    summary: str
    handle: Callable[[Call], Awaitable[BaseModel | Raw]]
    """Its docstring is the description in the OpenAPI document. Raises RefusedError."""
    answer: type[BaseModel] | None
    """None for an answer that is not JSON: Raw."""
    body: type[BaseModel] | None = None
    """Model of the JSON body, or of the query string for GET and DELETE."""
    scope: Scope | None = "read"
    """What a key must allow; None lets everybody in."""
    tag: str = "recommendations"
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Of the body, by name: {"summary", "value"}."""
    needs_run: bool = True
    """Whether it is refused with 503 while no run is loaded."""

    @property
    def reads_query(self) -> bool:
        """Whether the model describes the query string."""
        return self.method in ("GET", "DELETE")
