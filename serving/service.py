"""What a replica answers with: a run in the model's thread, and the store of what happened since."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raysys.configfile import build
from raysys.errors import UserError
from raysys.runs import Run
from serving.answers.question import Answer, Question
from serving.answers.retrieval import Retrieval
from serving.catalogue.following import Follower
from serving.catalogue.live import Overlay
from serving.config import ReplicaConfig
from serving.errors import RefusedError
from serving.metrics import Metrics
from serving.stores import Store, make_store
from serving.users.identity import Identity
from serving.worker import Worker

_STUCK_S = 60.0  # twice what the proxy waits for: a batch that takes longer is of no use to anybody


class Service:
    """A run that answers, off the event loop: health, validation and refusals never wait for the model."""

    def __init__(self, config: ReplicaConfig, store: Store, metrics: Metrics | None = None) -> None:
        """Load a run.

        Raises:
            UserError: the run cannot be opened, none of its tasks retrieves, or the key of pseudonyms is another one.
        """
        self.config, self.store = config, store
        self.metrics = Metrics() if metrics is None else metrics
        self.run = Run.open(config.run)
        self.run_id = self.run.record.run_id
        self.retrieval = Retrieval(self.run, config)
        self.items = Follower(store, Overlay(self.run, config.threads), self.retrieval.follow)
        """Keeps up with changes of items once it is started."""
        self._identity = Identity(self.run.manifest)
        self._threads = threading.local()
        limits = config.limits
        self._worker: Worker[Question, Answer] = Worker(
            self._answers, limits.batch, "model", limits.waiting, self.metrics.batch
        )

    @staticmethod
    async def load(
        user_config: Mapping[str, Any], store: Store | None = None, metrics: Metrics | None = None
    ) -> "Service":
        """Load a service without holding up the event loop: the one before it answers meanwhile, from the same store.

        Raises:
            UserError: the config or the run is not right.
        """
        config = build(ReplicaConfig, dict(user_config), "user_config")
        if store is None:
            store = make_store(config.store)
            await store.open()
        return await asyncio.to_thread(Service, config, store, metrics)

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return self.run.manifest.num_items

    @property
    def num_waiting(self) -> int:
        """Questions that wait for the model."""
        return self._worker.num_waiting

    def problem(self) -> str | None:
        """Return why the model does not answer; None while it does."""
        if not self._worker.is_alive:
            return "the thread of the model has ended"
        if self._worker.working_s > _STUCK_S:
            return f"the model has been busy with one batch for {self._worker.working_s:.0f} s"
        if (error := self.items.fault()) is not None:
            return f"changes of items are no longer followed: {type(error).__name__}"
        return None

    def name(self, user_id: str) -> str:
        """Return the name under which the store knows a user.

        Raises:
            RefusedError: the dataset has pseudonyms, and this is none.
        """
        try:
            return self._identity.name(user_id)
        except UserError as error:
            raise RefusedError(400, "bad_request", str(error)) from None

    async def answer(self, question: Question) -> Answer:
        """Answer a question in the model's thread. Raises what Worker.ask raises."""
        return await self._worker.ask(question)

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer several questions as one batch."""
        return await self._worker.ask_all(questions)

    def close(self) -> None:
        """End the model's thread once it has answered what waits, and follow items no more; the store stays."""
        self.items.stop()
        self._worker.close()

    def _answers(self, questions: Sequence[Question]) -> list[Answer]:
        if not hasattr(self._threads, "set"):  # torch keeps its number of threads per thread
            torch.set_num_threads(self.config.threads)
            self._threads.set = True
        return self.retrieval.answers(questions)
