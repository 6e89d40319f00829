"""POST /v1/recommend: the k best items for a user or after a history; and several of it in one request."""

import asyncio
import time
from typing import Annotated

from pydantic import Field, StrictBool

from serving.answers.filters import Filters
from serving.answers.question import Question
from serving.config import MOST_BATCH
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply
from serving.endpoints.fields import Count, Identifier, Number, SomeItems
from serving.endpoints.items import ItemList, check_count, depth, item_list
from serving.endpoints.who import Asker, Degraded, who
from serving.errors import RefusedError
from serving.service import Service

_EXAMPLES = {
    "known user": {"summary": "A user of the logs", "value": {"user_id": "42", "k": 5}},
    "history": {"summary": "A visitor, by what was seen so far", "value": {"history": ["50", "172"], "k": 5}},
    "new visitor": {"summary": "Nothing is known: popularity", "value": {"history": []}},
    "among some": {"summary": "The best of a given list", "value": {"user_id": "42", "candidates": ["50", "172"]}},
    "varied": {"summary": "Varied, with reasons", "value": {"user_id": "42", "diversity": 0.3, "explain": True}},
}

Context = Annotated[dict[Identifier, Annotated[str, Field(max_length=512)] | Number], Field(max_length=64)]
Weight = Annotated[float, Field(strict=True, ge=-1000, le=1000)]
Score = Annotated[dict[Identifier, Weight], Field(min_length=1, max_length=64)]


class RecommendRequest(Asker):
    """What to recommend, and to whom: `user_id`, `session_id`, `history`, or several of them."""

    k: Count | None = None
    """How many items; the server has a default and a maximum."""
    exclude_seen: StrictBool = True
    """Whether to leave out what the user already had."""
    candidates: SomeItems | None = None
    """Item ids; only these are ranked."""
    filters: Filters = {}
    """Only items with these features: {column: value}, {column: [one of these values]} or {column: {at_least, at_most}}
    with at least one of the bounds."""
    context: Context = {}
    """What is known of the moment, such as the page: columns of the events, which tasks may have learned from."""
    score: Score | None = None
    """Task -> weight in the final score: a weighted sum of what the tasks predict, in which the retrieval task counts
    by its probability among the candidates. Without it the server's own weights, or the retrieval task, order."""
    scores: StrictBool = True
    """Whether to show what the tasks predict."""
    diversity: Number = Field(0.0, ge=0, le=1)
    """How much being unlike the items before it counts against the score: 0 not at all, 1 alone."""
    explain: StrictBool = False
    """Whether to tell which events of the history raised each score most; takes some times as long."""


async def recommend(call: Call) -> ItemList:
    """Rank the catalogue and return the best k items, leaving out what the user already had."""
    service = call.service
    question, degraded = await _question(call.body, service, call.request_id, "body")
    return item_list(await service.answer(question), call.request_id, service, degraded)


class BatchRequest(Body):
    """Several requests that are answered together."""

    requests: tuple[RecommendRequest, ...] = Field(min_length=1, max_length=MOST_BATCH)
    """As of /v1/recommend; the server has a maximum (limits.batch)."""


class BatchAnswer(Reply):
    """The answers, in the order of the requests."""

    request_id: str
    answers: list[ItemList]
    """Each has a request id of its own: that of the whole, a dash and the place, from 0."""


async def recommend_batch(call: Call) -> BatchAnswer:
    """Answer several requests as one batch of the model. One that is refused refuses them all."""
    service, bodies = call.service, call.body.requests
    most = service.config.limits.batch
    if len(bodies) > most:
        told = f"body.requests: at most {most} requests (limits.batch), not {len(bodies)}"
        raise RefusedError(400, "bad_request", told)
    ids = [f"{call.request_id}-{place}" for place in range(len(bodies))]
    asked = [_question(body, service, ids[place], f"body.requests.{place}") for place, body in enumerate(bodies)]
    questions, degraded = zip(*await asyncio.gather(*asked), strict=True)
    answers = zip(await service.answer_all(questions), ids, degraded, strict=True)
    lists = [item_list(answer, request_id, service, missing) for answer, request_id, missing in answers]
    return BatchAnswer.model_construct(request_id=call.request_id, answers=lists)


async def _question(body: RecommendRequest, service: Service, request_id: str, where: str) -> tuple[Question, Degraded]:
    terms, k = service.terms, depth(body.k, service, where)
    check_count(body.candidates, service, f"{where}.candidates")
    conditions = terms.filters.check(body.filters, f"{where}.filters")
    terms.check_context(body.context, f"{where}.context")
    if body.score is not None:
        terms.check_score(body.score, f"{where}.score")
    asker = await who(body, service)
    question = Question(
        asker.state,
        asker.source,
        k,
        body.exclude_seen,
        candidates=body.candidates,
        filters=conditions,
        context=body.context,
        weights=body.score,
        diversity=body.diversity,
        scores=body.scores,
        explain=body.explain,
        seed=request_id,
        time=int(time.time() * 1000),
    )
    return question, asker.degraded


ENDPOINT = Endpoint(
    "POST",
    "/v1/recommend",
    "The k best items for a user or after a history",
    recommend,
    ItemList,
    RecommendRequest,
    examples=_EXAMPLES,
)

BATCH = Endpoint(
    "POST",
    "/v1/recommend/batch",
    "Recommendations for several users at once",
    recommend_batch,
    BatchAnswer,
    BatchRequest,
    examples={"two": {"summary": "Two users", "value": {"requests": [{"user_id": "42"}, {"history": ["50"]}]}}},
)
