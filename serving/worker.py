"""The one thread in which the model works. It takes whatever questions wait, several at once, and never waits for more.

So a batch forms under load alone: at one question at a time nothing is delayed. What cannot be answered in time is
refused when it comes, so that questions never pile up.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_Q = TypeVar("_Q")
_A = TypeVar("_A")
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
    """The worker has ended: another run has taken its place, or the replica stops."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    question: Any
    future: "asyncio.Future[Any]"
    until: float


class Worker(Generic[_Q, _A]):
    """Answers questions in a thread of its own, at most `batch` at once, while at most `waiting` wait."""

    def __init__(
        self,
        answer: Callable[[Sequence[_Q]], Sequence[_A]],
        batch: int,
        name: str,
        waiting: int = 256,
        seen: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """Start the thread. An exception of `answer` goes to every question of its batch.

        `seen` is told of every batch, in the thread: how many questions it had and the seconds it took.
        """
        self._answer, self._batch, self._most_waiting, self._seen = answer, batch, waiting, seen
        self._waiting: deque[_Waiting] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._batch_seconds = 0.0
        self._began: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Questions that no batch has taken yet."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    @property
    def working_s(self) -> float:
        """Seconds since the batch under way was taken; 0 while there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    async def ask(self, question: _Q) -> _A:
        """Return the answer; a question whose asker has gone before it is taken is passed over.

        Raises:
            OverloadedError: it would wait beyond its `deadline`, or too many wait already.
            LateError: the deadline passed while it waited; the model was not asked.
            ClosedError: `close` was called before.
        """
        (answer,) = await self.ask_all([question])
        return answer

    async def ask_all(self, questions: Sequence[_Q]) -> list[_A]:
        """Return the answers of several questions, which are taken together if `batch` allows it; raises as `ask`."""
        loop, until = asyncio.get_running_loop(), deadline.get()
        futures: list[asyncio.Future[_A]] = [loop.create_future() for _ in questions]
        with self._news:
            self._admit(until)
            self._waiting.extend(_Waiting(one, future, until) for one, future in zip(questions, futures, strict=True))
            self._news.notify()
        return await asyncio.gather(*futures)

    def close(self) -> None:
        """End the thread after what waits is answered."""
        with self._news:
            self._closed = True
            self._news.notify()

    def _admit(self, until: float) -> None:
        if self._closed:
            raise ClosedError
        ahead = len(self._waiting)
        if not ahead and self._began is None:
            return  # an idle model answers anything, or a slow first batch would shut everybody out for good
        # By whole batches, because a batch takes nearly as long with one question as with many.
        batches = ahead // self._batch + 1 + (self._began is not None)
        expected = batches * self._batch_seconds
        if ahead >= self._most_waiting or time.monotonic() + expected > until:
            raise OverloadedError(expected)

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            if taken:
                self._answer_all(taken)

    def _take(self) -> list[_Waiting] | None:
        """Wait for questions and return the next batch, which may be empty; None at the end."""
        with self._news:
            while not self._waiting and not self._closed:
                self._news.wait()
            if not self._waiting:
                return None
            now, taken = time.monotonic(), list[_Waiting]()
            while self._waiting and len(taken) < self._batch:
                one = self._waiting.popleft()
                if one.until < now:
                    one.future.get_loop().call_soon_threadsafe(_fail, [one], LateError())
                elif not one.future.cancelled():
                    taken.append(one)
            self._began = now if taken else None
        return taken

    def _answer_all(self, batch: list[_Waiting]) -> None:
        loop, began = batch[0].future.get_loop(), time.monotonic()
        try:
            answers = self._answer([one.question for one in batch])
        except Exception as error:  # the questions' askers handle it
            self._note(len(batch), time.monotonic() - began)
            loop.call_soon_threadsafe(_fail, batch, error)
        else:
            # Noted first: whoever has an answer and asks again finds the model free.
            self._note(len(batch), time.monotonic() - began)
            loop.call_soon_threadsafe(_settle, batch, answers)

    def _note(self, size: int, seconds: float) -> None:
        with self._news:
            before = self._batch_seconds or seconds
            self._batch_seconds = before + _NEWEST_WEIGHS * (seconds - before)
            self._began = None
        self._seen(size, seconds)


def _settle(batch: Sequence[_Waiting], answers: Sequence[Any]) -> None:
    for one, answer in zip(batch, answers, strict=True):
        if not one.future.done():
            one.future.set_result(answer)


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.future.done():
            one.future.set_exception(error)
