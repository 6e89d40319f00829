"""POST /v1/recommend: the k best items for a user or after a history."""

from dataclasses import asdict

from pydantic import Field, StrictBool, StrictInt

from serving.endpoints.endpoint import Call, Endpoint, Reply
from serving.endpoints.who import Asker, who
from serving.errors import RefusedError
from serving.question import Question, Source
from serving.service import Service

_EXAMPLES = {
    "known user": {"summary": "A user of the logs", "value": {"user_id": "42", "k": 5}},
    "history": {"summary": "A visitor, by what was seen so far", "value": {"history": ["50", "172"], "k": 5}},
    "new visitor": {"summary": "Nothing is known: popularity", "value": {"history": []}},
}


class RecommendRequest(Asker):
    """What to recommend, and to whom: either `user_id` or `history`."""

    k: StrictInt | None = Field(None, ge=1)
    """How many items; the server has a default and a maximum."""
    exclude_seen: StrictBool = True
    """Whether to leave out what the user already had."""


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
    asker = await who(body, service)
    return Question(asker.state, asker.source, k, body.exclude_seen)


ENDPOINT = Endpoint(
    "POST",
    "/v1/recommend",
    "The k best items for a user or after a history",
    recommend,
    RecommendAnswer,
    RecommendRequest,
    examples=_EXAMPLES,
)
