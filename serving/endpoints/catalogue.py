"""POST /v1/items, GET and DELETE /v1/items/{item_id}: items that are new, changed or withdrawn since the training."""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from serving.catalogue.changes import WITHDRAWN, Fields, ItemChange, merged
from serving.catalogue.item_terms import item_fields, shown_fields
from serving.config import MOST_CHANGES
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply
from serving.endpoints.fields import Identifier, ItemId, Number
from serving.errors import RefusedError
from serving.service import Service
from serving.stores import StoreDownError
from serving.waiting import ScorersDownError

_Text = Annotated[str, Field(strict=True, max_length=4096)]
_Value = _Text | Number | Annotated[tuple[_Text, ...], Field(max_length=64)] | None
_Ids = Annotated[tuple[ItemId, ...], Field(max_length=MOST_CHANGES)]


class PostedItem(Body):
    """What is new of an item."""

    item_id: ItemId
    """An item of the run, or a new one."""
    title: _Text | None = None
    """Its new title."""
    features: dict[Identifier, _Value] = Field({}, max_length=64)
    """Column of the run's catalog -> number, text, category, list of categories, or null for not known. Columns that
    are not named stay as they are."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if "title" not in self.model_fields_set and not self.features:
            raise ValueError("give title or features; neither is given")
        return self


class ItemsRequest(Body):
    """Changes that are made together."""

    items: Annotated[tuple[PostedItem, ...], Field(max_length=MOST_CHANGES)] = ()
    """Items with new fields. What is withdrawn stays withdrawn."""
    withdraw: _Ids = ()
    """Ids of items that are shown no more, until they are restored."""
    restore: _Ids = ()
    """Ids of items that are shown again."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.items and not self.withdraw and not self.restore:
            raise ValueError("give items, withdraw or restore; none is given")
        both = sorted({*self.withdraw} & {*self.restore})
        if both:
            raise ValueError(f"withdraw and restore both name {both[0]!r:.80}; name an item in one of them")
        return self


class ItemsAnswer(Reply):
    """What became of them: all of it is stored."""

    request_id: str
    version: int
    """Of the changes: replicas that have come to it answer by them, which takes them `store.poll_items_s`."""
    changed: int
    """Items of the run with new fields."""
    new: int
    """Items that the run does not know."""
    withdrawn: int
    restored: int


class ItemAnswer(Reply):
    """What is known of an item."""

    request_id: str
    item_id: str
    title: str | None
    features: dict[str, Any]
    """By column: as the run was trained with, or as it was changed since."""
    events: int
    """History events in training."""
    new: bool
    """Whether the run does not know it."""
    withdrawn: bool


class ChangedAnswer(Reply):
    """The version of the change."""

    request_id: str
    version: int


async def post_items(call: Call) -> ItemsAnswer:
    """Change, add, withdraw and restore items: all of it, or none and 503 `store_down`.

    New items need a run whose item encoders read what is written about items (409 otherwise); they are retrieved by
    their vectors from then on.
    """
    service, body = call.service, call.body
    count, most = len(body.items) + len(body.withdraw) + len(body.restore), service.config.limits.items
    if count > most:
        raise RefusedError(400, "bad_request", f"body: at most {most:,} items at once (limits.items), not {count:,}")
    changes = [_change(item, service, f"body.items.{place}") for place, item in enumerate(body.items)]
    num_new = await _check_new(changes, service) if changes else 0
    changes += [ItemChange(item_id, {WITHDRAWN: True}) for item_id in body.withdraw]
    changes += [ItemChange(item_id, {WITHDRAWN: False}) for item_id in body.restore]
    version = await _put(changes, service)
    return ItemsAnswer(
        request_id=call.request_id,
        version=version,
        changed=len({one.item_id for one in body.items}) - num_new,
        new=num_new,
        withdrawn=len({*body.withdraw}),
        restored=len({*body.restore}),
    )


async def get_item(call: Call) -> ItemAnswer:
    """Tell what is known of an item, of the run's catalog and of changes; 404 where nothing is."""
    item_id, service = call.path["item_id"], call.service
    live = service.items.live
    fields = live.fields(item_id)
    if fields is None:
        raise RefusedError(404, "unknown_item", "item_id: nothing is known of this item")
    place = int(service.run.vocabulary.lookup([item_id])[0])
    known = place >= FIRST_ITEM
    return ItemAnswer(
        request_id=call.request_id,
        item_id=item_id,
        title=fields.get("title"),
        features=shown_fields(fields),
        events=service.run.catalog.table["popularity"][place - FIRST_ITEM].as_py() if known else 0,
        new=not known,
        withdrawn=bool(fields.get(WITHDRAWN)),
    )


async def delete_item(call: Call) -> ChangedAnswer:
    """Withdraw an item: it is in no list until it is restored. 404 where nothing is known of it."""
    item_id, service = call.path["item_id"], call.service
    if service.items.live.fields(item_id) is None:
        raise RefusedError(404, "unknown_item", "item_id: nothing is known of this item")
    version = await _put([ItemChange(item_id, {WITHDRAWN: True})], service)
    return ChangedAnswer(request_id=call.request_id, version=version)


def _change(item: PostedItem, service: Service, where: str) -> ItemChange:
    fields = item_fields(item.features, service.run.catalog.table.schema, f"{where}.features")
    if "title" in item.model_fields_set:
        fields["title"] = item.title
    return ItemChange(item.item_id, fields)


async def _check_new(changes: list[ItemChange], service: Service) -> int:
    """Return how many items are new; refuse those that the run can make nothing of."""
    ids = [one.item_id for one in changes]
    known = service.run.vocabulary.lookup(ids) >= FIRST_ITEM
    new = {name for name, is_known in zip(ids, known.tolist(), strict=True) if not is_known}
    if not new:
        return 0
    told: Mapping[str, Fields] = merged(service.items.live.changes, changes)
    try:
        readable = await service.answerer.check_new({name: told[name] for name in new})
    except UserError as error:
        first = next(name for name in ids if name in new)
        hint = f"body.items: the run does not know {first!r:.80}, and cannot show new items ({error})"
        raise RefusedError(409, "no_new_items", hint) from None
    for place, name in enumerate(ids):
        if name in new and name not in readable:
            hint = f"body.items.{place}: the item is new, and nothing is told of it that the run reads; give its texts"
            raise RefusedError(400, "bad_request", f"{hint} (title, or what model.items names)")
    return len(new)


async def _put(changes: list[ItemChange], service: Service) -> int:
    version = await service.store.put_items(changes)
    with contextlib.suppress(StoreDownError, ScorersDownError):  # it is stored, and followed once they are back
        await service.items.sync()
    return version


_EXAMPLES = {
    "stock": {
        "summary": "An item of the catalogue has a new title",
        "value": {"items": [{"item_id": "50", "title": "Star Wars"}]},
    },
    "withdrawn": {"summary": "Two items are sold out", "value": {"withdraw": ["50", "172"]}},
}
POST = Endpoint(
    "POST",
    "/v1/items",
    "Add, change, withdraw or restore items",
    post_items,
    ItemsAnswer,
    ItemsRequest,
    scope="admin",
    tag="items",
    examples=_EXAMPLES,
)
GET = Endpoint("GET", "/v1/items/{item_id}", "What is known of an item", get_item, ItemAnswer, tag="items")
DELETE = Endpoint(
    "DELETE", "/v1/items/{item_id}", "Withdraw an item", delete_item, ChangedAnswer, scope="admin", tag="items"
)
