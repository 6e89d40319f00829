"""POST /v1/recommend: the k best items for a user or after a history."""

from dataclasses import asdict
from typing import Literal, Self

from pydantic import ConfigDict, StrictBool, model_validator
from pydantic.config import JsonDict

from serving.encoding import with_history
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply
from serving.endpoints.fields import Count, ItemIds, UserId
from serving.errors import RefusedError
from serving.question import Question, Source
from serving.service import Service
from serving.state import NOBODY, UserState
from serving.stores import StoreDownError, session_key

_EXAMPLES = {
    "known user": {"summary": "A user of the logs", "value": {"user_id": "42", "k": 5}},
    "history": {"summary": "A visitor, by what was seen so far", "value": {"history": ["50", "172"], "k": 5}},
    "new visitor": {"summary": "Nothing is known: popularity", "value": {"history": []}},
}


_SOMEBODY: JsonDict = {
    "anyOf": [
        {"required": ["user_id"], "properties": {"user_id": {"type": "string"}}},
        {"required": ["session_id"], "properties": {"session_id": {"type": "string"}}},
        {"required": ["history"], "properties": {"history": {"type": "array"}}},
    ]
}


class RecommendRequest(Body):
    """Who asks: `user_id`, `session_id`, `history`, or several of them."""

    model_config = ConfigDict(json_schema_extra=_SOMEBODY)

    user_id: UserId | None = None
    """A user of the logs, or of events that were posted; anybody else is answered by popularity."""
    session_id: UserId | None = None
    """A visit of which events were posted. With `user_id` beside it, its events become the user's."""
    history: ItemIds | None = None
    """Item ids, oldest first; unknown ones are passed over, and where none is known popularity answers. Beside an id,
    those that the store does not know of follow the stored events, and stand in for them where there are none."""
    k: Count | None = None
    """How many items; the server has a default and a maximum."""
    exclude_seen: StrictBool = True
    """Whether to leave out what the user already had."""

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.user_id is None and self.session_id is None and self.history is None:
            raise ValueError("give user_id, session_id or history ([] for a new visitor); none is given")
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
    """What the list was made from: events of the user or session, the given history, or popularity in training."""
    degraded: list[Literal["store"]]
    """What was not available: without the `store`, the list comes from the given history or from popularity."""


async def recommend(call: Call) -> RecommendAnswer:
    """Rank the whole catalogue and return the best k items, leaving out what the user already had."""
    service = call.service
    question, degraded = await _question(call.body, service)
    answer = await service.answer(question)
    items = [RecommendedItem.model_construct(**asdict(item)) for item in answer.items]
    return RecommendAnswer(
        request_id=call.request_id, run_id=service.run_id, items=items, source=answer.source, degraded=degraded
    )


async def _question(body: RecommendRequest, service: Service) -> tuple[Question, list[Literal["store"]]]:
    k = service.config.k if body.k is None else body.k
    if k > service.config.k_max:
        raise RefusedError(400, "bad_request", f"body.k: at most {service.config.k_max} items (k_max), not {k}")
    state, degraded = await _stored(body, service)
    source: Source = "history" if not state.events else "session" if body.user_id is None else "user"
    state = with_history(state, body.history or (), service.run.manifest.history[0])
    return Question(state, source, k, body.exclude_seen), degraded


async def _stored(body: RecommendRequest, service: Service) -> tuple[UserState, list[Literal["store"]]]:
    """Read who asks; an answer goes on without the store."""
    session = None if body.session_id is None else session_key(body.session_id)
    user = session if body.user_id is None else service.name(body.user_id)
    if user is None:
        return NOBODY, []
    try:
        if session is not None and session != user:
            await service.store.merge(session, user)
        return (await service.store.read([user]))[0], []
    except StoreDownError:
        return NOBODY, ["store"]


ENDPOINT = Endpoint(
    "POST",
    "/v1/recommend",
    "The k best items for a user or after a history",
    recommend,
    RecommendAnswer,
    RecommendRequest,
    examples=_EXAMPLES,
)
