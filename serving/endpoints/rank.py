"""POST /v1/rank: what every task predicts for given items."""

from pydantic import StrictBool

from serving.answers.question import Question
from serving.endpoints.endpoint import Call, Endpoint
from serving.endpoints.fields import SomeItems
from serving.endpoints.items import ItemList, check_count, item_list
from serving.endpoints.recommend import Context, Score
from serving.endpoints.who import Asker, who

_EXAMPLE = {"user_id": "42", "items": ["50", "172"]}


class RankRequest(Asker):
    """Which items to score, and for whom: `user_id`, `session_id`, `history`, or several of them."""

    items: SomeItems
    """Item ids."""
    context: Context = {}
    """What is known of the moment, as for /v1/recommend."""
    score: Score | None = None
    """Task -> weight in the final score, as for /v1/recommend."""
    explain: StrictBool = False
    """Whether to tell which events of the history raised each score most."""


async def rank(call: Call) -> ItemList:
    """Score given items by every task and order them; no rule, filter or exclusion of seen items applies.

    `scores` holds the task that retrieves too.
    """
    body, service = call.body, call.service
    check_count(body.items, service, "body.items")
    service.terms.check_context(body.context, "body.context")
    if body.score is not None:
        service.terms.check_score(body.score, "body.score")
    asker = await who(body, service)
    question = Question(
        asker.state,
        asker.source,
        k=len(body.items),
        exclude_seen=False,
        candidates=body.items,
        context=body.context,
        weights=body.score,
        explain=body.explain,
        rules="none",
    )
    answer = await service.answer(question)
    found, retriever = item_list(answer, call.request_id, service, asker.degraded), service.terms.names.scoring[0]
    for shown, item in zip(found.items, answer.items, strict=True):
        shown.scores = {retriever: item.retrieved, **item.scores}
    return found


ENDPOINT = Endpoint(
    "POST",
    "/v1/rank",
    "What every task predicts for given items",
    rank,
    ItemList,
    RankRequest,
    examples={"two items": {"summary": "Two items for a user", "value": _EXAMPLE}},
)
