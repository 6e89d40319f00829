"""POST /v1/recommend: the k best items for a user or after a history."""

from dataclasses import asdict
from typing import Self

from pydantic import ConfigDict, StrictBool, model_validator
from pydantic.config import JsonDict

from serving.encoding import of_history
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply
from serving.endpoints.fields import Count, ItemIds, UserId
from serving.errors import RefusedError
from serving.question import Question, Source
from serving.service import Service

_EXAMPLES = {
    "known user": {"summary": "A user of the logs", "value": {"user_id": "42", "k": 5}},
    "history": {"summary": "A visitor, by what was seen so far", "value": {"history": ["50", "172"], "k": 5}},
    "new visitor": {"summary": "Nothing is known: popularity", "value": {"history": []}},
}


_EITHER: JsonDict = {
    "oneOf": [
        {"required": ["user_id"], "properties": {"user_id": {"type": "string"}}},
        {"required": ["history"], "properties": {"history": {"type": "array"}}},
    ]
}


class RecommendRequest(Body):
    """Who asks: either `user_id` or `history`."""

    model_config = ConfigDict(json_schema_extra=_EITHER)

    user_id: UserId | None = None
    """A user of the logs, or of events that were posted; anybody else is answered by popularity."""
    history: ItemIds | None = None
    """Item ids, oldest first; unknown ones are passed over, and where none is known popularity answers."""
    k: Count | None = None
    """How many items; the server has a default and a maximum."""
    exclude_seen: StrictBool = True
    """Whether to leave out what the user already had."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.user_id is None) == (self.history is None):
            given = "neither is given" if self.user_id is None else "both are given"
            raise ValueError(f"give either user_id or history ([] for a new visitor); {given}")
        return self


class RecommendedItem(Reply):
    """One item of an answer."""

    item_id: str
    title: str | None
    """Null where the logs came without titles."""
    score: float
    """Orders the list: of the retrieval task; for popularity, the item's training events."""
    scores: dict[str, float]
    """What the run's other tasks predict for this user and item, by task: a rating, a probability."""


class RecommendAnswer(Reply):
    """The items, best first."""

    request_id: str
    run_id: str
    items: list[RecommendedItem]
    """Fewer than k where the catalogue holds no more."""
    source: Source
    """What the list was made from: the user's events, the given history, or popularity in training."""


async def recommend(call: Call) -> RecommendAnswer:
    """Rank the whole catalogue and return the best k items, leaving out what the user already had."""
    service = call.service
    answer = await service.answer(await _question(call.body, service))
    items = [RecommendedItem.model_construct(**asdict(item)) for item in answer.items]
    return RecommendAnswer(request_id=call.request_id, run_id=service.run_id, items=items, source=answer.source)


async def _question(body: RecommendRequest, service: Service) -> Question:
    k = service.config.k if body.k is None else body.k
    if k > service.config.k_max:
        raise RefusedError(400, "bad_request", f"body.k: at most {service.config.k_max} items (k_max), not {k}")
    if body.user_id is not None:
        (state,) = await service.store.read([body.user_id])
        return Question(state, "user", k, body.exclude_seen)
    state = of_history(body.history or (), service.run.manifest.history[0])
    return Question(state, "history", k, body.exclude_seen)


ENDPOINT = Endpoint(
    "POST",
    "/v1/recommend",
    "The k best items for a user or after a history",
    recommend,
    RecommendAnswer,
    RecommendRequest,
    examples=_EXAMPLES,
)
