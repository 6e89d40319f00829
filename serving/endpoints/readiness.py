"""GET /readyz: whether the replica takes requests, and which of its parts are down."""

from typing import Literal

from serving.endpoints.endpoint import Call, Endpoint, Reply
from serving.errors import RefusedError
from serving.stores import StoreDownError


class Readiness(Reply):
    """A replica that takes requests."""

    status: Literal["ready", "degraded"]
    degraded: list[str]
    """Parts that do not answer now: `store` means that users' events are neither read nor taken."""


async def readyz(call: Call) -> Readiness:
    """Say whether requests are welcome: a run is loaded and warm, and the replica does not stop. Else 503 says why."""
    replica = call.replica
    if replica.stopping:
        raise RefusedError(503, "stopping", "this replica finishes what is under way and stops; ask another one")
    if replica.service is None:
        raise RefusedError(503, "not_ready", "no run is loaded yet", {"retry-after": "5"})
    if problem := replica.service.problem():
        raise RefusedError(503, "not_ready", problem)
    if missing := await replica.service.answerer.missing():
        raise RefusedError(503, "not_ready", missing, {"retry-after": "5"})
    try:
        await replica.service.store.count()
    except StoreDownError:
        return Readiness(status="degraded", degraded=["store"])
    return Readiness(status="ready", degraded=[])


ENDPOINT = Endpoint(
    "GET",
    "/readyz",
    "Whether it takes requests",
    readyz,
    Readiness,
    scope=None,
    tag="operations",
    needs_run=False,
)
