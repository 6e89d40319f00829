"""POST /v1/bundle: what completes a basket."""

from serving.answers.encoding import with_history
from serving.answers.filters import Filters
from serving.answers.question import Question
from serving.endpoints.endpoint import Body, Call, Endpoint
from serving.endpoints.fields import Count, SomeItems
from serving.endpoints.items import ItemList, check_count, depth, item_list
from serving.errors import RefusedError
from serving.users.state import NOBODY


class BundleRequest(Body):
    """What is in the basket."""

    items: SomeItems
    """Item ids; unknown ones are passed over, 404 where none is known."""
    k: Count | None = None
    """How many items; the server has a default and a maximum."""
    filters: Filters = {}
    """Only items with these features, as for /v1/recommend."""


async def bundle(call: Call) -> ItemList:
    """Return the items that go best with a basket, without what is in it.

    By the run's task of kind bundle; where it has none, by the mean direction of the basket's vectors.
    """
    body, service = call.body, call.service
    terms, k = service.terms, depth(body.k, service)
    check_count(body.items, service, "body.items")
    filters = terms.filters.check(body.filters, "body.filters")
    unknown = tuple(item for item in body.items if not terms.knows(item))
    if len(unknown) == len(body.items):
        raise RefusedError(404, "not_found", "body.items: the run knows none of them")
    state = with_history(NOBODY, body.items, service.run.manifest.history[0])
    question = Question(state, "history", k, filters=filters, scores=False, task=terms.names.bundle, rules="allowed")
    found = item_list(await service.answer(question), call.request_id, service)
    found.unknown = list(unknown)
    return found


ENDPOINT = Endpoint(
    "POST",
    "/v1/bundle",
    "Items that complete a basket",
    bundle,
    ItemList,
    BundleRequest,
    examples={"two items": {"summary": "A basket of two", "value": {"items": ["50", "172"], "k": 5}}},
)
