"""What a replica answers with: a run, what answers its questions, and the store of what happened since."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raysys.configfile import build
from raysys.errors import UserError
from raysys.runs import Run
from serving.answers.question import Answer, Question
from serving.answers.terms import Terms
from serving.catalogue.following import Follower
from serving.catalogue.live import LiveItems
from serving.config import ReplicaConfig
from serving.errors import RefusedError
from serving.metrics import Metrics
from serving.scoring.answerer import Answerer
from serving.scoring.model import Model
from serving.scoring.scorers import Remote, Scorers
from serving.stores import Store, make_store
from serving.users.identity import Identity


class Service:
    """A run that answers, off the event loop: health, validation and refusals never wait for the model."""

    def __init__(self, run: Run, config: ReplicaConfig, store: Store, answerer: Answerer, metrics: Metrics) -> None:
        """Put together what `load` has loaded.

        Raises:
            UserError: the key of pseudonyms is another one.
        """
        self.run, self.config, self.store, self.metrics = run, config, store, metrics
        self.run_id = run.record.run_id
        self.answerer = answerer
        self.items = Follower(run, store, answerer.read_new, self._follow)
        """Keeps up with changes of items once it is started."""
        self.terms = Terms(run.manifest, answerer.about.names, self.items.live)
        """What may be asked for."""
        self._identity = Identity(run.manifest)

    @staticmethod
    async def load(
        user_config: Mapping[str, Any],
        store: Store | None = None,
        metrics: Metrics | None = None,
        scorers: Remote | None = None,
        device: torch.device | None = None,
    ) -> "Service":
        """Load a service without holding up the event loop: the one before it answers meanwhile, from the same store.

        With `scorers` these have network and index, and this process has not; it waits until they are ready.

        Raises:
            UserError: the config is not right, the run cannot be opened, or it cannot answer.
        """
        config = build(ReplicaConfig, dict(user_config), "user_config")
        metrics = Metrics() if metrics is None else metrics
        if store is None:
            store = make_store(config.store)
            await store.open()
        run = await asyncio.to_thread(Run.open, config.run)
        answerer: Answerer
        if scorers is None:
            answerer = await asyncio.to_thread(Model, run, config, metrics.batch, device)
        else:
            answerer = await Scorers.find(scorers, config, metrics)
        try:
            return await asyncio.to_thread(Service, run, config, store, answerer, metrics)
        except UserError:
            answerer.close()
            raise

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return self.run.manifest.num_items

    @property
    def num_waiting(self) -> int:
        """Questions that wait for the model."""
        return self.answerer.num_waiting

    def problem(self) -> str | None:
        """Return why this process has to be replaced; None while it need not."""
        if (told := self.answerer.problem()) is not None:
            return told
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
        """Answer a question. Raises what Answerer.ask_all raises."""
        (answer,) = await self.answerer.ask_all([question])
        return answer

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer several questions as one batch."""
        return await self.answerer.ask_all(questions)

    def close(self) -> None:
        """Let what waits be answered, and follow items no more; the store stays."""
        self.items.stop()
        self.answerer.close()

    def _follow(self, items: LiveItems) -> None:
        self.answerer.follow(items)
        self.terms.items = items
