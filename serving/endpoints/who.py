"""Who asks: a user of the store, a session, a visitor with a history. The same for all that answer somebody."""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import ConfigDict, model_validator
from pydantic.config import JsonDict

from serving.answers.encoding import with_history
from serving.answers.question import Source
from serving.endpoints.endpoint import Body
from serving.endpoints.fields import ItemIds, UserId
from serving.service import Service
from serving.stores import StoreDownError, session_key
from serving.users.state import NOBODY, UserState

Degraded = list[Literal["store"]]

_SOMEBODY: JsonDict = {
    "anyOf": [
        {"required": ["user_id"], "properties": {"user_id": {"type": "string"}}},
        {"required": ["session_id"], "properties": {"session_id": {"type": "string"}}},
        {"required": ["history"], "properties": {"history": {"type": "array"}}},
    ]
}


class Asker(Body):
    """Who asks: `user_id`, `session_id`, `history`, or several of them."""

    model_config = ConfigDict(json_schema_extra=_SOMEBODY)

    user_id: UserId | None = None
    """A user of the logs, or of events that were posted; anybody else is answered by popularity."""
    session_id: UserId | None = None
    """A visit of which events were posted. With `user_id` beside it, its events become the user's."""
    history: ItemIds | None = None
    """Item ids, oldest first; unknown ones are passed over, and where none is known popularity answers. Beside an id,
    those that the store does not know of follow the stored events, and stand in for them where there are none."""

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.user_id is None and self.session_id is None and self.history is None:
            raise ValueError("give user_id, session_id or history ([] for a new visitor); none is given")
        return self


@dataclass(frozen=True, slots=True)
class Who:
    """What is known of who asks, what it was made from, and what was not there for it."""

    state: UserState
    source: Source
    degraded: Degraded


async def who(body: Asker, service: Service) -> Who:
    """Read the state of who asks; without the store the given history stands in."""
    state, degraded = await _stored(body, service)
    source: Source = "history" if not state.events else "session" if body.user_id is None else "user"
    return Who(with_history(state, body.history or (), service.run.manifest.history[0]), source, degraded)


async def _stored(body: Asker, service: Service) -> tuple[UserState, Degraded]:
    session = None if body.session_id is None else session_key(body.session_id)
    user = session if body.user_id is None else service.name(body.user_id)
    if user is None:
        return NOBODY, []
    try:
        if session is not None and session != user:
            await service.store.merge(session, user)
        return (await service.store.read([user]))[0], []
    except StoreDownError:
        service.metrics.degraded()
        return NOBODY, ["store"]
