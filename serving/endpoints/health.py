"""GET /healthz: which run answers, and what it knows."""

from typing import Literal

from serving.endpoints.endpoint import Call, Endpoint, Reply
from serving.stores import StoreDownError


class Health(Reply):
    """The run that answers."""

    status: Literal["ok"]
    run_id: str
    items: int
    """Size of the catalogue."""
    users: int | None
    """About how many users the store knows; null while it does not answer."""


async def healthz(call: Call) -> Health:
    """Say which run answers and how many items and users it knows. 503 while none is loaded."""
    service = call.service
    try:
        users = await service.store.count()
    except StoreDownError:
        users = None
    return Health(status="ok", run_id=service.run_id, items=service.num_items, users=users)


ENDPOINT = Endpoint("GET", "/healthz", "The run that answers", healthz, Health, scope=None, tag="operations")
