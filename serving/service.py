"""What a replica answers with: a run in the model's thread, and the store of what happened since."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raysys.configfile import build
from raysys.runs import Run
from serving.config import ReplicaConfig
from serving.question import Answer, Question
from serving.retrieval import Retrieval
from serving.stores import Store, make_store
from serving.worker import Worker


class Service:
    """A run that answers, off the event loop: health, validation and refusals never wait for the model."""

    def __init__(self, config: ReplicaConfig, store: Store) -> None:
        """Load a run.

        Raises:
            UserError: the run cannot be opened, or none of its tasks retrieves.
        """
        self.config, self.store = config, store
        self.run = Run.open(config.run)
        self.run_id = self.run.record.run_id
        self.retrieval = Retrieval(self.run, config)
        self._threads = threading.local()
        self._worker: Worker[Question, Answer] = Worker(self._answers, config.limits.batch, "model")

    @staticmethod
    async def load(user_config: Mapping[str, Any], store: Store | None = None) -> "Service":
        """Load a service without holding up the event loop: the one before it answers meanwhile, from the same store.

        Raises:
            UserError: the config or the run is not right.
        """
        config = build(ReplicaConfig, dict(user_config), "user_config")
        if store is None:
            store = make_store(config.store)
            await store.open()
        return await asyncio.to_thread(Service, config, store)

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return self.run.manifest.num_items

    async def answer(self, question: Question) -> Answer:
        """Answer a question in the model's thread."""
        return await self._worker.ask(question)

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer several questions as one batch."""
        return await self._worker.ask_all(questions)

    def close(self) -> None:
        """End the model's thread once it has answered what waits; the store stays."""
        self._worker.close()

    def _answers(self, questions: Sequence[Question]) -> list[Answer]:
        if not hasattr(self._threads, "set"):  # torch keeps its number of threads per thread
            torch.set_num_threads(self.config.threads)
            self._threads.set = True
        return self.retrieval.answers(questions)
