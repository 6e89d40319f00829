"""The model in processes of its own: one call to a scorer carries what waits.

As in front of the model's thread a batch forms under load alone: while a few are under way with scorers, what comes
waits, and goes with the next one. Questions change nothing, so those of a scorer that dies are asked again.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raysys.errors import UserError
from serving.answers.question import Answer, Question
from serving.catalogue.changes import Fields
from serving.catalogue.live import LiveItems
from serving.catalogue.reading import ReadItems
from serving.config import AT_ONCE, ReplicaConfig
from serving.metrics import Metrics
from serving.scoring.answerer import About, Answerer
from serving.waiting import LateError, Line, ScorersDownError, Waiting, deadline, fail, settle

_LOOK_S = 2.0  # a call that takes longer makes one ask whether any scorer lives
_ALIVE_S = 1.0  # within which a scorer says so
_PAUSE_S = 0.2


class ScorerDiedError(Exception):
    """The scorer that was asked is gone; another one may answer."""


@dataclass(frozen=True)
class Scored:
    """What a scorer answers."""

    outcomes: Sequence[Answer | Exception]
    """In the order of the questions; an error where one could not be answered."""
    batches: Sequence[tuple[int, float]]
    """Questions and seconds of the batches of its model since it last told anybody: each is told once."""


class Remote(Protocol):
    """What scorers can be asked. `told` is the config of who asks, as JSON: a scorer answers by exactly that one.

    All raise ScorerDiedError.
    """

    async def hold(self, told: str) -> About | str:
        """Load the config's run, and tell what it is like, or why it cannot be loaded."""
        ...

    async def answer(
        self, told: str, version: int, questions: Sequence[Question], remaining: Sequence[float]
    ) -> Scored:
        """Answer by items of at least a version, each question within the seconds that remain for it."""
        ...

    async def count_days(self, told: str) -> Exception | None:
        """Make ready for questions with `days`."""
        ...

    async def check_new(self, told: str, items: Mapping[str, Fields]) -> tuple[str, ...] | str:
        """Return which new items can be shown, or why none can."""
        ...

    async def read_new(self, told: str, items: Mapping[str, Fields]) -> tuple[str, ...]:
        """Return which new items are shown."""
        ...

    async def alive(self) -> None:
        """Return at once."""
        ...


class Scorers(Answerer):
    """Asks whichever scorer has the least to do."""

    def __init__(self, remote: Remote, config: ReplicaConfig, about: About, metrics: Metrics) -> None:
        self.about = about
        self._remote, self._told, self._metrics = remote, config.model_dump_json(), metrics
        limits = config.limits
        self._line = Line(limits.batch, limits.waiting, AT_ONCE * config.scorers)
        self._version, self._is_down = 0, False
        self._under_way: set[asyncio.Task[None]] = set()

    @staticmethod
    async def find(remote: Remote, config: ReplicaConfig, metrics: Metrics) -> "Scorers":
        """Return when the first scorer has loaded the run; the others are about to, if they are there.

        Raises:
            UserError: it cannot be loaded.
        """
        while True:
            try:
                about = await remote.hold(config.model_dump_json())
            except ScorerDiedError:
                await asyncio.sleep(_PAUSE_S)
                continue
            if isinstance(about, str):
                raise UserError(about)
            return Scorers(remote, config, about, metrics)

    @property
    def num_waiting(self) -> int:
        """Questions that are on their way to no scorer yet."""
        return len(self._line)

    async def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer by a scorer. While none lives, one batch at a time finds out whether that is still so."""
        if self._is_down and self._line.num_busy:
            raise ScorersDownError
        until = deadline.get()
        self._line.admit(until)
        futures = self._line.join(questions, [until] * len(questions))
        self._send()
        return await asyncio.gather(*futures)

    async def count_days(self) -> None:
        """Let a scorer count; the others do when they are first asked."""
        if (error := await self._again(lambda: self._remote.count_days(self._told))) is not None:
            raise error

    async def check_new(self, items: Mapping[str, Fields]) -> tuple[str, ...]:
        """Let a scorer read them."""
        found = await self._again(lambda: self._remote.check_new(self._told, items))
        if isinstance(found, str):
            raise UserError(found)
        return found

    async def read_new(self, items: Mapping[str, Fields]) -> ReadItems:
        """Let a scorer read them; their vectors stay there."""
        return ReadItems(await self._again(lambda: self._remote.read_new(self._told, items)))

    def follow(self, items: LiveItems) -> None:
        """Have scorers come to the version of these items before they answer; they follow changes themselves."""
        self._version = items.version

    def problem(self) -> str | None:
        """Nothing here can break: scorers are replaced by themselves."""
        return None

    async def missing(self) -> str | None:
        """Ask whether a scorer lives."""
        return None if await self._is_alive() else "no scorer answers"

    def close(self) -> None:
        """Take nothing new."""
        self._line.closed = True

    def _send(self) -> None:
        while self._line and self._line.is_free:
            batch, late = self._line.take()
            fail(late, LateError())
            if batch:
                task = asyncio.get_running_loop().create_task(self._answer(batch))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _answer(self, batch: list[Waiting]) -> None:
        began = time.monotonic()
        outcomes: Sequence[Any]
        try:
            outcomes = await self._again(lambda: self._ask(batch))
        except Exception as error:  # the questions' askers handle it
            outcomes = [error] * len(batch)
            self._is_down = isinstance(error, ScorersDownError)
        else:
            self._is_down = False
        seconds = time.monotonic() - began
        self._line.done(len(batch), None if self._is_down else seconds)
        self._metrics.scored(seconds, not self._is_down)
        settle(batch, outcomes)
        if self._is_down:
            fail(self._line.take_all(), ScorersDownError())
        self._send()

    async def _ask(self, batch: list[Waiting]) -> Sequence[Answer | Exception]:
        now = time.monotonic()
        remaining = [one.until - now for one in batch]
        asked = self._remote.answer(self._told, self._version, [one.question for one in batch], remaining)
        call, patience = asyncio.ensure_future(asked), min(_LOOK_S, max(*remaining, _PAUSE_S))
        try:
            while not (await asyncio.wait([call], timeout=patience))[0]:
                if not await self._is_alive():
                    raise ScorersDownError
                patience = _LOOK_S
        finally:
            call.cancel()
        scored = call.result()
        for size, seconds in scored.batches:
            self._metrics.batch(size, seconds)
        return scored.outcomes

    async def _again(self, ask: Any) -> Any:
        """Ask, and once more where the scorer dies over it."""
        for _ in range(2):
            try:
                return await ask()
            except ScorerDiedError:
                await asyncio.sleep(_PAUSE_S)
        raise ScorersDownError

    async def _is_alive(self) -> bool:
        try:
            async with asyncio.timeout(_ALIVE_S):
                await self._again(self._remote.alive)
        except (TimeoutError, ScorersDownError):
            return False
        return True
