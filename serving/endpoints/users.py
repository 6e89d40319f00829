"""GET and DELETE /v1/users/{user_id}: what is kept of a user, and an end to it."""

from typing import Any

from pydantic import Field

from serving.endpoints.endpoint import Body, Call, Endpoint, Reply
from serving.errors import RefusedError
from serving.users.state import StoredEvent


class UserQuery(Body):
    """How much to show."""

    limit: int = Field(20, ge=0, le=1000)
    """Most events."""


class UserEvent(Reply):
    """One event."""

    item_id: str
    event: str
    timestamp: int
    """Milliseconds since 1970-01-01 UTC; 0 where the log has no times."""
    labels: dict[str, float] | None
    context: dict[str, float | str] | None
    request_id: str | None
    slot: int | None


class UserAnswer(Reply):
    """What is kept of a user."""

    request_id: str
    user_id: str
    num_events: int
    """Events that are kept."""
    events: list[UserEvent]
    """Newest first."""
    features: dict[str, Any]
    """What the dataset told of the user."""
    bytes: int
    """What the user takes in the store."""


class DeletedAnswer(Reply):
    """Whether there was anything to delete."""

    request_id: str
    deleted: bool


async def get_user(call: Call) -> UserAnswer:
    """Show what is kept of a user: newest events of all kinds, and features. 404 for whom nothing is known."""
    name = call.service.name(call.path["user_id"])
    (state,) = await call.service.store.read([name], whole=True)
    if not state.events and state.profile is None:
        raise RefusedError(404, "unknown_user", "user_id: nothing is kept of this user")
    newest = sorted(state.events, key=lambda event: event.time)[::-1][: call.body.limit]
    return UserAnswer(
        request_id=call.request_id,
        user_id=call.path["user_id"],
        num_events=len(state.events),
        events=[_shown(event) for event in newest],
        features=dict(state.profile.features) if state.profile else {},
        bytes=await call.service.store.size([name]),
    )


async def delete_user(call: Call) -> DeletedAnswer:
    """Delete everything that is kept of a user. A load of a dataset that still has the user brings its events back."""
    deleted = await call.service.store.delete(call.service.name(call.path["user_id"]))
    return DeletedAnswer(request_id=call.request_id, deleted=deleted)


def _shown(event: StoredEvent) -> UserEvent:
    fields = event._asdict()
    return UserEvent(timestamp=fields.pop("time"), **fields)


GET = Endpoint(
    "GET", "/v1/users/{user_id}", "What is kept of a user", get_user, UserAnswer, UserQuery, scope="admin", tag="users"
)
DELETE = Endpoint(
    "DELETE", "/v1/users/{user_id}", "Delete a user", delete_user, DeletedAnswer, scope="admin", tag="users"
)
