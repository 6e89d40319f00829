"""POST /v1/popular: what most people had, of all time or of the last days."""

from typing import Any

from pydantic import Field, field_validator

from raysys.data.times import Duration
from serving.answers.filters import Filters
from serving.answers.popularity import DAY, MOST_DAYS
from serving.answers.question import Question
from serving.endpoints.endpoint import Body, Call, Endpoint
from serving.endpoints.fields import Count
from serving.endpoints.items import ItemList, depth, item_list


class PopularRequest(Body):
    """Of what time, and among what."""

    k: Count | None = None
    """How many items; the server has a default and a maximum."""
    window: Duration | None = Field(None, validate_default=True)
    """Such as 7d: the last days of the dataset that the run was trained on, as whole days, at most 90. Without it the
    whole training period."""
    filters: Filters = {}
    """Only items with these features, such as those of one category, as for /v1/recommend."""

    @field_validator("window")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if value is not None and not 0 < value <= MOST_DAYS * DAY:
            raise ValueError(f"more than 0 and at most {MOST_DAYS}d")
        return value


async def popular(call: Call) -> ItemList:
    """Return the items with the most history events; `score` is their number.

    Events that came after the dataset are not counted. The first request with a window waits until the days are
    counted.
    """
    body, service = call.body, call.service
    k, filters = depth(body.k, service), service.terms.filters.check(body.filters, "body.filters")
    days = None if body.window is None else -(-body.window // DAY)
    if days is not None:
        await service.answerer.count_days()
    question = Question(source="popularity", k=k, filters=filters, scores=False, days=days, rules="allowed")
    return item_list(await service.answer(question), call.request_id, service)


ENDPOINT = Endpoint(
    "POST",
    "/v1/popular",
    "What most people had",
    popular,
    ItemList,
    PopularRequest,
    examples={"all": {"summary": "Of the whole training period", "value": {"k": 5}}},
)
