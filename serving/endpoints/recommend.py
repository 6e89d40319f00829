"""POST /v1/recommend: the k best items for a user or after a history."""

from dataclasses import asdict
from typing import Annotated, Self

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from serving.errors import RefusedError, request_id
from serving.retrieval import Question, Source
from serving.service import Service, service_of

router = APIRouter(prefix="/v1", tags=["recommendations"])

_EXAMPLES = {
    "known user": {"summary": "A user of the logs", "value": {"user_id": "42", "k": 5}},
    "history": {"summary": "A visitor, by what was seen so far", "value": {"history": ["50", "172"], "k": 5}},
    "new visitor": {"summary": "Nothing is known: popularity", "value": {"history": []}},
}


class RecommendRequest(BaseModel):
    """Who asks: either `user_id` or `history`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    user_id: str | None = Field(None, min_length=1)
    """A user of the logs that the run was trained on; anybody else is answered by popularity."""
    history: tuple[str, ...] | None = None
    """Item ids, oldest first; unknown ones are passed over, and where none is known popularity answers."""
    k: StrictInt | None = Field(None, ge=1)
    """How many items; the server has a default and a maximum."""
    exclude_seen: StrictBool = True
    """Whether to leave out what the user already had."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.user_id is None) == (self.history is None):
            given = "neither is given" if self.user_id is None else "both are given"
            raise ValueError(f"give either user_id or history ([] for a new visitor); {given}")
        return self


class RecommendedItem(BaseModel):
    """One item of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    item_id: str
    title: str | None
    """Null where the logs came without titles."""
    score: float
    """Orders the list: of the retrieval task; for popularity, the item's training events."""
    scores: dict[str, float]
    """What the run's other tasks predict for this user and item, by task: a rating, a probability."""


class RecommendAnswer(BaseModel):
    """The items, best first."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    request_id: str
    run_id: str
    items: list[RecommendedItem]
    """Fewer than k where the catalogue holds no more."""
    source: Source
    """What the list was made from: the user's history, the given history, or popularity in training."""


@router.post("/recommend", summary="The k best items for a user or after a history")
async def recommend(
    request: Request, body: Annotated[RecommendRequest, Body(openapi_examples=_EXAMPLES)]
) -> RecommendAnswer:
    """Rank the whole catalogue and return the best k items, leaving out what the user already had."""
    service = service_of(request)
    question = Question(body.user_id, body.history or (), _depth(body, service), body.exclude_seen)
    answer = await service.answer(question)
    return RecommendAnswer(
        request_id=request_id(request),
        run_id=service.run_id,
        items=[RecommendedItem(**asdict(item)) for item in answer.items],
        source=answer.source,
    )


def _depth(body: RecommendRequest, service: Service) -> int:
    k = service.config.k if body.k is None else body.k
    if k > service.config.k_max:
        raise RefusedError(400, "bad_request", f"body.k: at most {service.config.k_max} items (k_max), not {k}")
    return k
