"""GET /healthz: which run answers, and what it knows."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from serving.service import service_of

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """The run that answers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Literal["ok"]
    run_id: str
    items: int
    """Size of the catalogue."""
    users: int
    """Users whose histories are known; 0 where the run's dataset cannot be read."""


@router.get("/healthz", summary="The run that answers")
async def healthz(request: Request) -> Health:
    """Say which run answers and how many items and users it knows. 503 while none is loaded."""
    service = service_of(request)
    retrieval = service.retrieval
    return Health(status="ok", run_id=service.run_id, items=retrieval.num_items, users=retrieval.num_users)
