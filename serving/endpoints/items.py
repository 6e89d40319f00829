"""What the answers of endpoints that list items have in common, and what their requests let one choose."""

from collections.abc import Sequence
from typing import Literal

from serving.answers.question import Answer, Item, Reason, Source
from serving.endpoints.endpoint import Reply
from serving.errors import RefusedError
from serving.service import Service


class ReasonReply(Reply):
    """An item of the history that raised the score of another."""

    item_id: str
    effect: float
    """The score, less what it would be without this event."""


class ListedItem(Reply):
    """One item of an answer."""

    item_id: str
    title: str | None
    """Null where the logs came without titles."""
    slot: int
    """Place in the list, from 1. Log it with what the user does: it says which item of which answer that was about."""
    score: float
    """Orders the list. Of the retrieval task, or the weighted sum that `score` asks for; for popularity, the item's
    events."""
    propensity: float
    """The probability that the item stands in this slot, given those before it; 1 unless the server explores."""
    scores: dict[str, float]
    """What the run's other tasks predict for this user and item, by task: a rating, a probability."""
    why: list[ReasonReply] | None
    """The events of the history that raised the score most, where `explain` asks for them."""


class ItemList(Reply):
    """The items, best first."""

    request_id: str
    run_id: str
    items: list[ListedItem]
    """Fewer than k where the catalogue holds no more."""
    source: Source
    """What the list was made from: events of the user or session, the given history, or popularity in training."""
    degraded: list[Literal["store"]]
    """What was not available: without the `store`, the list comes from the given history or from popularity."""
    unknown: list[str]
    """Ids among the given items that the run does not know; they are passed over."""


def item_list(answer: Answer, request_id: str, service: Service, degraded: Sequence[Literal["store"]] = ()) -> ItemList:
    """Return an answer as it is sent."""
    return ItemList.model_construct(
        request_id=request_id,
        run_id=service.run_id,
        items=[_listed(item) for item in answer.items],
        source=answer.source,
        degraded=list(degraded),
        unknown=list(answer.unknown),
    )


def depth(given: int | None, service: Service, where: str = "body") -> int:
    """Return how many items are asked for.

    Raises:
        RefusedError: more than the server allows.
    """
    k = service.config.k if given is None else given
    if k > service.config.k_max:
        raise RefusedError(400, "bad_request", f"{where}.k: at most {service.config.k_max} items (k_max), not {k}")
    return k


def check_count(items: Sequence[str] | None, service: Service, where: str) -> None:
    """Refuse more given items than ten answers hold.

    Raises:
        RefusedError: there are more.
    """
    most = 10 * service.config.k_max
    if items is not None and len(items) > most:
        raise RefusedError(400, "bad_request", f"{where}: at most {most} items (10 k_max), not {len(items)}")


def _listed(item: Item) -> ListedItem:
    return ListedItem.model_construct(
        item_id=item.item_id,
        title=item.title,
        slot=item.slot,
        score=item.score,
        propensity=item.propensity,
        scores=dict(item.scores),
        why=None if item.why is None else [_reason(one) for one in item.why],
    )


def _reason(reason: Reason) -> ReasonReply:
    return ReasonReply.model_construct(item_id=reason.item_id, effect=reason.effect)
