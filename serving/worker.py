"""The one thread in which the model works. It takes whatever questions wait, several at once, and never waits for more.

So a batch forms under load alone: at one question at a time nothing is delayed.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from serving.waiting import LateError, Line, Waiting, deadline, fail, settle

_Q = TypeVar("_Q")
_A = TypeVar("_A")


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
        self._answer, self._seen = answer, seen
        self._line = Line(batch, waiting)
        self._news = threading.Condition()
        self._began: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Questions that no batch has taken yet."""
        return len(self._line)

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
        until = deadline.get()
        with self._news:
            self._line.admit(until)
            futures = self._line.join(questions, [until] * len(questions))
            self._news.notify()
        return await asyncio.gather(*futures)

    async def ask_admitted(self, questions: Sequence[_Q], untils: Sequence[float]) -> "list[_A | BaseException]":
        """Return the answers of questions that were let in elsewhere, each with its deadline, or what went wrong.

        Raises:
            ClosedError: as for `ask`.
        """
        with self._news:
            futures = self._line.join(questions, untils)
            self._news.notify()
        return await asyncio.gather(*futures, return_exceptions=True)

    def close(self) -> None:
        """End the thread after what waits is answered."""
        with self._news:
            self._line.closed = True
            self._news.notify()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            if taken:
                self._answer_all(taken)

    def _take(self) -> list[Waiting] | None:
        """Wait for questions and return the next batch, which may be empty; None at the end."""
        with self._news:
            while not self._line and not self._line.closed:
                self._news.wait()
            if not self._line:
                return None
            taken, late = self._line.take()
            self._began = time.monotonic() if taken else None
        for one in late:
            one.future.get_loop().call_soon_threadsafe(fail, [one], LateError())
        return taken

    def _answer_all(self, batch: list[Waiting]) -> None:
        loop, began = batch[0].future.get_loop(), time.monotonic()
        outcomes: Sequence[Any]
        try:
            outcomes = self._answer([one.question for one in batch])
        except Exception as error:  # the questions' askers handle it
            outcomes = [error] * len(batch)
        # Noted first: whoever has an answer and asks again finds the model free.
        self._note(len(batch), time.monotonic() - began)
        loop.call_soon_threadsafe(settle, batch, outcomes)

    def _note(self, size: int, seconds: float) -> None:
        with self._news:
            self._line.done(size, seconds)
            self._began = None
        self._seen(size, seconds)
