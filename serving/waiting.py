"""What waits for the model: who is let in, what is taken next, and what has come too late.

What cannot be answered in time is refused when it comes, so that questions never pile up.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_NEWEST_WEIGHS = 0.2  # of the seconds per batch: follows a change within some ten batches

deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
"""Until when the answer to the current request is of use, on the clock of time.monotonic."""


class OverloadedError(Exception):
    """Too much waits for the model."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"try again in {retry_after_s:.3g} s")
        self.retry_after_s = retry_after_s


class LateError(Exception):
    """The deadline passed before the model was free."""


class ClosedError(Exception):
    """The model has ended: another run has taken its place, or the replica stops."""


class ScorersDownError(Exception):
    """The model is in processes of its own, and none of them answers now."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question, and where its answer goes."""

    question: Any
    future: "asyncio.Future[Any]"
    until: float
    """On the clock of time.monotonic."""


class Line:
    """Questions in the order in which they came; takers take at most `batch` of them at once. Knows no threads."""

    def __init__(self, batch: int, most: int, takers: int = 1) -> None:
        """Let at most `most` wait for some takers that work on a whole batch each; while batches are smaller, more."""
        self._batch, self._takers = batch, takers
        self._most_under_way = most + batch * takers
        self._waiting: deque[Waiting] = deque()
        self._batch_seconds = 0.0
        self._num_taken = 0
        self.num_busy = 0
        """Takers at work."""
        self.closed = False
        """Whether it takes nothing new; what waits is still taken."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_free(self) -> bool:
        """Whether a taker has nothing to do."""
        return self.num_busy < self._takers

    def admit(self, until: float) -> None:
        """Refuse what would not be taken in time.

        Raises:
            OverloadedError: it would wait beyond `until`, or too many wait already.
            ClosedError: the line takes nothing new.
        """
        if self.closed:
            raise ClosedError
        ahead = len(self._waiting)
        if not ahead and self.is_free:
            return  # an idle model answers anything, or a slow first batch would shut everybody out for good
        # By whole batches, because a batch takes nearly as long with one question as with many.
        expected = (ahead // self._batch + 1 + self.num_busy) / self._takers * self._batch_seconds
        if ahead + self._num_taken >= self._most_under_way or time.monotonic() + expected > until:
            raise OverloadedError(expected)

    def join(self, questions: Sequence[Any], untils: Sequence[float]) -> list["asyncio.Future[Any]"]:
        """Put questions at the end, whether or not they were admitted, and return their answers to come.

        Raises:
            ClosedError: the line takes nothing new.
        """
        if self.closed:
            raise ClosedError
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in questions]
        self._waiting.extend(map(Waiting, questions, futures, untils))
        return futures

    def take(self) -> tuple[list[Waiting], list[Waiting]]:
        """Return the next batch, which may be empty, and what came too late before it.

        Questions whose asker has gone are passed over.
        """
        now = time.monotonic()
        taken, late = list[Waiting](), list[Waiting]()
        while self._waiting and len(taken) < self._batch:
            one = self._waiting.popleft()
            if one.until < now:
                late.append(one)
            elif not one.future.cancelled():
                taken.append(one)
        self.num_busy += bool(taken)
        self._num_taken += len(taken)
        return taken, late

    def take_all(self) -> list[Waiting]:
        """Return everything that waits: nobody will answer it."""
        everything = list(self._waiting)
        self._waiting.clear()
        return everything

    def done(self, size: int, seconds: float | None) -> None:
        """Note that a taker is free again, and how long its batch took; None where that tells nothing of others."""
        if seconds is not None:
            before = self._batch_seconds or seconds
            self._batch_seconds = before + _NEWEST_WEIGHS * (seconds - before)
        self.num_busy -= 1
        self._num_taken -= size


def settle(batch: Sequence[Waiting], outcomes: Sequence[Any]) -> None:
    """Hand out answers, and errors among them, on the event loop of the askers."""
    for one, outcome in zip(batch, outcomes, strict=True):
        if one.future.done():
            continue
        if isinstance(outcome, Exception):
            one.future.set_exception(outcome)
        else:
            one.future.set_result(outcome)


def fail(batch: Sequence[Waiting], error: Exception) -> None:
    """Hand out one error to all."""
    settle(batch, [error] * len(batch))
