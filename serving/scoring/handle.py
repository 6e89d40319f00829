"""Scorers behind a handle of Ray Serve: the one place where a call leaves the process."""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any

from serving.answers.question import Question
from serving.catalogue.changes import Fields
from serving.scoring.answerer import About
from serving.scoring.scorers import Scored, ScorerDiedError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class ScorersByHandle:
    """A Remote; Ray picks the scorer with the least to do, and holds a call while there is none."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = handle
        self._methods: dict[str, DeploymentHandle[Any]] = {}  # to make one costs as much as to send a question

    async def hold(self, told: str) -> About | str:
        """See Remote."""
        about: About | str = await self._call("hold", told)
        return about

    async def answer(
        self, told: str, version: int, questions: Sequence[Question], remaining: Sequence[float]
    ) -> Scored:
        """See Remote."""
        scored: Scored = await self._call("answer", told, version, questions, remaining)
        return scored

    async def count_days(self, told: str) -> Exception | None:
        """See Remote."""
        error: Exception | None = await self._call("count_days", told)
        return error

    async def check_new(self, told: str, items: Mapping[str, Fields]) -> tuple[str, ...] | str:
        """See Remote."""
        found: tuple[str, ...] | str = await self._call("check_new", told, items)
        return found

    async def read_new(self, told: str, items: Mapping[str, Fields]) -> tuple[str, ...]:
        """See Remote."""
        found: tuple[str, ...] = await self._call("read_new", told, items)
        return found

    async def alive(self) -> None:
        """See Remote."""
        await self._call("alive")

    async def _call(self, method: str, *given: Any) -> Any:
        # In a context of its own: Ray would end a call with the one request that happened to set it off.
        task = asyncio.get_running_loop().create_task(self._send(method, *given), context=Context())
        try:
            return await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
            raise ScorerDiedError from None  # a scorer that is stopped cancels what it was asked

    async def _send(self, method: str, *given: Any) -> Any:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import DeploymentUnavailableError

        if method not in self._methods:
            self._methods[method] = getattr(self._handle, method)
        try:
            return await self._methods[method].remote(*given)
        except (RayActorError, DeploymentUnavailableError) as error:
            raise ScorerDiedError from error
