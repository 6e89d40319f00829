"""The one thread in which the model works. It takes whatever questions wait, several at once, and never waits for more.

So a batch forms under load alone: at one question at a time nothing is delayed.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_Q = TypeVar("_Q")
_A = TypeVar("_A")
_Waiting = tuple[_Q, "asyncio.Future[_A]"]


class Worker(Generic[_Q, _A]):
    """Answers questions in a thread of its own, at most `batch` at once."""

    def __init__(self, answer: Callable[[Sequence[_Q]], Sequence[_A]], batch: int, name: str) -> None:
        """Start the thread. An exception of `answer` goes to every question of its batch."""
        self._answer, self._batch = answer, batch
        self._waiting: deque[_Waiting] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Questions that no batch has taken yet."""
        return len(self._waiting)

    async def ask(self, question: _Q) -> _A:
        """Return the answer; a question whose asker has gone before it is taken is passed over."""
        (answer,) = await self.ask_all([question])
        return answer

    async def ask_all(self, questions: Sequence[_Q]) -> list[_A]:
        """Return the answers of several questions, which are taken together if `batch` allows it."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[_A]] = [loop.create_future() for _ in questions]
        with self._news:
            self._waiting.extend(zip(questions, futures, strict=True))
            self._news.notify()
        return await asyncio.gather(*futures)

    def close(self) -> None:
        """End the thread after what waits is answered."""
        with self._news:
            self._closed = True
            self._news.notify()

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._waiting and not self._closed:
                    self._news.wait()
                if not self._waiting:
                    return
                taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            batch = [(question, future) for question, future in taken if not future.cancelled()]
            if batch:
                self._answer_all(batch)

    def _answer_all(self, batch: list[_Waiting]) -> None:
        loop = batch[0][1].get_loop()
        futures = [future for _, future in batch]
        try:
            answers = self._answer([question for question, _ in batch])
        except Exception as error:  # the questions' askers handle it
            loop.call_soon_threadsafe(_fail, futures, error)
        else:
            loop.call_soon_threadsafe(_settle, futures, answers)


def _settle(futures: Sequence["asyncio.Future[_A]"], answers: Sequence[_A]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():
            future.set_result(answer)


def _fail(futures: Sequence["asyncio.Future[_A]"], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
