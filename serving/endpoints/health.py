"""GET /healthz: which run answers, and what it knows."""

from typing import Literal

from serving.endpoints.endpoint import Call, Endpoint, Reply


class Health(Reply):
    """The run that answers."""

    status: Literal["ok"]
    run_id: str
    items: int
    """Size of the catalogue."""
    users: int
    """About how many users the store knows."""


async def healthz(call: Call) -> Health:
    """Say which run answers and how many items and users it knows. 503 while none is loaded."""
    service = call.service
    return Health(status="ok", run_id=service.run_id, items=service.num_items, users=await service.store.count())


ENDPOINT = Endpoint("GET", "/healthz", "The run that answers", healthz, Health, scope=None, tag="operations")
