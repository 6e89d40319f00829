"""POST /v1/events: what users do, stored at once: the next answer knows it."""

import time
import uuid
from typing import Annotated, Self

from pydantic import Field, StrictInt, StrictStr, StringConstraints, model_validator

from serving.config import MOST_EVENTS
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply
from serving.endpoints.fields import Identifier, ItemId, Number, UserId
from serving.errors import RefusedError
from serving.service import Service
from serving.stores import NewEvent, session_key
from serving.users.state import StoredEvent

_AHEAD_MS = 3_600_000  # a client's clock may be wrong by an hour
_Text = Annotated[StrictStr, StringConstraints(max_length=512)]

_EXAMPLES = {
    "event": {
        "summary": "A user watches an item",
        "value": {"events": [{"user_id": "42", "item_id": "50", "event_id": "8f1c-1"}]},
    },
    "session": {
        "summary": "A visitor without an account",
        "value": {"events": [{"session_id": "s-7", "item_id": "50", "event_id": "8f1c-2"}]},
    },
}


class PostedEvent(Body):
    """One event: of a user, or of a session, or of both at a login."""

    user_id: UserId | None = None
    """Who did it."""
    session_id: UserId | None = None
    """The visit that it belongs to. With `user_id` beside it, the events of the session become the user's."""
    item_id: ItemId
    """The item; one that the run does not know is kept for later runs."""
    event: Identifier | None = None
    """Its kind, one of those that the run was trained on; the run's first kind of history where it is not given."""
    timestamp: StrictInt | None = Field(None, ge=100_000_000_000)
    """Milliseconds since 1970-01-01 UTC, at most an hour ahead; now where it is not given."""
    labels: dict[Identifier, Number] | None = Field(None, max_length=64)
    """What came of it, such as a rating: numbers by name."""
    context: dict[Identifier, Number | _Text] | None = Field(None, max_length=64)
    """What was known when it happened: numbers and categories by name."""
    event_id: Identifier | None = None
    """Names the event, so that it may be posted again. Without it, an event posted twice counts twice."""
    request_id: Identifier | None = None
    """Of the answer that the event follows."""
    slot: StrictInt | None = Field(None, ge=0)
    """Place of the item in that answer, from 0."""

    @model_validator(mode="after")
    def _of_somebody(self) -> Self:
        if self.user_id is None and self.session_id is None:
            raise ValueError("give user_id or session_id; neither is given")
        return self


class EventsRequest(Body):
    """Events, in any order."""

    events: tuple[PostedEvent, ...] = Field(min_length=1, max_length=MOST_EVENTS)
    """One or more; the server has a maximum (limits.events)."""


class EventsAnswer(Reply):
    """What became of them: everything in it is stored."""

    request_id: str
    accepted: int
    """Events that are stored now."""
    duplicates: int
    """Events whose `event_id` was known already."""


async def post_events(call: Call) -> EventsAnswer:
    """Store events: all of them, or none and 503 `store_down`. An accepted event outlives a crash of the server."""
    service, events = call.service, call.body.events
    if len(events) > service.config.limits.events:
        most = service.config.limits.events
        raise RefusedError(
            400, "bad_request", f"body.events: at most {most:,} at once (limits.events), not {len(events):,}"
        )
    now = time.time_ns() // 1_000_000
    new = [_new(service, event, place, now) for place, event in enumerate(events)]
    for session, name in {(e.session_id, one.user_id) for e, one in zip(events, new, strict=True) if e.user_id}:
        if session is not None:
            await service.store.merge(session_key(session), name)
    new.sort(key=lambda one: one.event.time)
    accepted = sum(await service.store.append(new))
    return EventsAnswer(request_id=call.request_id, accepted=accepted, duplicates=len(new) - accepted)


def _new(service: Service, event: PostedEvent, place: int, now: int) -> NewEvent:
    where = f"body.events.{place}"
    manifest = service.run.manifest
    kind = manifest.history[0] if event.event is None else event.event
    if kind not in manifest.event_names:
        allowed = ", ".join(manifest.event_names)
        raise RefusedError(400, "bad_request", f"{where}.event: the run knows no {kind[:80]!r} (allowed: {allowed})")
    if event.timestamp is not None and event.timestamp > now + _AHEAD_MS:
        told = f"{where}.timestamp: {event.timestamp} is more than an hour ahead of {now}; give milliseconds of UTC"
        raise RefusedError(400, "bad_request", told)
    for name in manifest.numbers:
        if isinstance((event.context or {}).get(name), str):
            raise RefusedError(400, "bad_request", f"{where}.context.{name}: a number is expected, not a text")
    owner = session_key(event.session_id or "") if event.user_id is None else service.name(event.user_id)
    stored = StoredEvent(
        event.item_id,
        kind,
        now if event.timestamp is None else event.timestamp,
        event.labels or None,
        event.context or None,
        event.request_id,
        event.slot,
    )
    return NewEvent(owner, event.event_id or uuid.uuid4().hex, stored, kind in manifest.history)


ENDPOINT = Endpoint(
    "POST",
    "/v1/events",
    "Store what users did",
    post_events,
    EventsAnswer,
    EventsRequest,
    scope="events",
    tag="events",
    examples=_EXAMPLES,
)
