"""The model in this process, in a thread of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence

import torch

from raysys.errors import UserError
from raysys.runs import Run
from serving.answers.question import Answer, Question
from serving.answers.retrieval import Retrieval
from serving.catalogue.changes import Fields
from serving.catalogue.live import LiveItems
from serving.catalogue.reading import NO_NEW_ITEMS, ItemReader, ReadItems
from serving.config import AnswerConfig
from serving.scoring.answerer import About, Answerer
from serving.worker import Worker

_log = logging.getLogger("ray.serve")
_STUCK_S = 60.0  # twice what the proxy waits for: a batch that takes longer is of no use to anybody


class Model(Answerer):
    """Holds network and index."""

    def __init__(
        self,
        run: Run,
        config: AnswerConfig,
        seen: Callable[[int, float], None] = lambda size, seconds: None,
        device: torch.device | None = None,
    ) -> None:
        """Load; `seen` is told of every batch: how many questions it had and the seconds it took.

        Raises:
            UserError: none of the run's tasks retrieves, or the config asks for what the run does not have.
        """
        self.retrieval = Retrieval(run, config, device)
        self.about = About(self.retrieval.names, self.retrieval.index.describe())
        self._reader, self._num_threads = ItemReader(run, config.threads), config.threads
        self._threads = threading.local()
        limits = config.limits
        self._worker: Worker[Question, Answer] = Worker(self._answers, limits.batch, "model", limits.waiting, seen)

    @property
    def num_waiting(self) -> int:
        """Questions that no batch has taken yet."""
        return self._worker.num_waiting

    async def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer in the model's thread."""
        return await self._worker.ask_all(questions)

    async def ask_admitted(
        self, questions: Sequence[Question], untils: Sequence[float]
    ) -> list[Answer | BaseException]:
        """Answer what was let in elsewhere; see Worker."""
        return await self._worker.ask_admitted(questions, untils)

    async def count_days(self) -> None:
        """Count what was had in the last days of the dataset."""
        await self.retrieval.recent.ready()

    async def check_new(self, items: Mapping[str, Fields]) -> tuple[str, ...]:
        """Read new items, in a thread; the first call loads what reads them."""
        await asyncio.to_thread(self._reader.check)
        return (await asyncio.to_thread(self._reader.read, items)).item_ids

    async def read_new(self, items: Mapping[str, Fields]) -> ReadItems:
        """Read new items with their vectors."""
        try:
            return await asyncio.to_thread(self._reader.read, items)
        except UserError as error:
            _log.warning("new items are not shown: %s", error)
            return NO_NEW_ITEMS

    def follow(self, items: LiveItems) -> None:
        """Search among these items."""
        self.retrieval.follow(items)

    def problem(self) -> str | None:
        """Look at the thread."""
        if not self._worker.is_alive:
            return "the thread of the model has ended"
        if self._worker.working_s > _STUCK_S:
            return f"the model has been busy with one batch for {self._worker.working_s:.0f} s"
        return None

    async def missing(self) -> str | None:
        """Nothing: all of it is here."""
        return None

    def close(self) -> None:
        """End the thread."""
        self._worker.close()

    def _answers(self, questions: Sequence[Question]) -> list[Answer]:
        if not hasattr(self._threads, "set"):  # torch keeps its number of threads per thread
            torch.set_num_threads(self._num_threads)
            self._threads.set = True
        return self.retrieval.answers(questions)
