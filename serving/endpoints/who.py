"""Who asks: a user of the store or a visitor with a history. The same for every endpoint that answers somebody."""

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from serving.encoding import of_history
from serving.endpoints.endpoint import Body
from serving.question import Source
from serving.service import Service
from serving.state import UserState


class Asker(Body):
    """Who asks: either `user_id` or `history`."""

    user_id: str | None = Field(None, min_length=1)
    """A user of the logs, or of events that were posted; anybody else is answered by popularity."""
    history: tuple[str, ...] | None = None
    """Item ids, oldest first; unknown ones are passed over, and where none is known popularity answers."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.user_id is None) == (self.history is None):
            given = "neither is given" if self.user_id is None else "both are given"
            raise ValueError(f"give either user_id or history ([] for a new visitor); {given}")
        return self


@dataclass(frozen=True, slots=True)
class Who:
    """What is known of who asks, and what it was made from."""

    state: UserState
    source: Source


async def who(body: Asker, service: Service) -> Who:
    """Read the user's state, or make one of the history."""
    if body.user_id is not None:
        (state,) = await service.store.read([body.user_id])
        return Who(state, "user")
    return Who(of_history(body.history or (), service.run.manifest.history[0]), "history")
