"""POST /v1/similar: items that are like an item."""

from serving.answers.encoding import with_history
from serving.answers.filters import Filters
from serving.answers.question import COSINE, Question
from serving.endpoints.endpoint import Body, Call, Endpoint
from serving.endpoints.fields import Count, Identifier, ItemId
from serving.endpoints.items import ItemList, depth, item_list
from serving.errors import RefusedError
from serving.users.state import NOBODY


class SimilarRequest(Body):
    """To what, and by what."""

    item_id: ItemId
    """An item of the run; 404 for others."""
    k: Count | None = None
    """How many items; the server has a default and a maximum."""
    by: Identifier | None = None
    """A task of item pairs, such as similar_item, or `cosine`: the direction of item vectors. By default the first such
    task of the run, and `cosine` where it has none."""
    filters: Filters = {}
    """Only items with these features, as for /v1/recommend."""


async def similar(call: Call) -> ItemList:
    """Return the items that are most like an item, without itself. The same for everybody."""
    body, service = call.body, call.service
    terms, k = service.terms, depth(body.k, service)
    filters = terms.filters.check(body.filters, "body.filters")
    is_new = terms.items.is_new(body.item_id)
    by = (COSINE if is_new else terms.names.similar[0]) if body.by is None else body.by
    if by not in terms.names.similar:
        told = f"body.by: {by!r}; the run compares items by {', '.join(terms.names.similar)}"
        raise RefusedError(400, "bad_request", told)
    if is_new and by != COSINE:
        told = f"body.by: {by!r} compares items of training, and {body.item_id!r} is newer; leave `by` out, or {COSINE}"
        raise RefusedError(409, "new_item", told)
    if not is_new and not terms.knows(body.item_id):
        raise RefusedError(404, "not_found", f"body.item_id: the run knows no item {body.item_id!r}")
    state = with_history(NOBODY, [body.item_id], service.run.manifest.history[0])
    question = Question(state, "history", k, filters=filters, scores=False, task=by, rules="allowed")
    return item_list(await service.answer(question), call.request_id, service)


ENDPOINT = Endpoint(
    "POST",
    "/v1/similar",
    "Items that are like an item",
    similar,
    ItemList,
    SimilarRequest,
    examples={"item": {"summary": "Like one item", "value": {"item_id": "50", "k": 5}}},
)
