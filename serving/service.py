"""What a replica answers with: a run with its limits, and the one thread that all model work happens in."""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from fastapi import Request

from raysys.configfile import build
from raysys.errors import UserError
from raysys.runs import Run
from serving.config import ReplicaConfig
from serving.errors import RefusedError
from serving.retrieval import Answer, Question, Retrieval
from serving.users import Histories

_log = logging.getLogger("ray.serve")


class Service:
    """A run that answers, off the event loop: health, validation and refusals never wait for the model."""

    def __init__(self, config: ReplicaConfig) -> None:
        """Load a run; where its dataset cannot be read, go on without user histories.

        Raises:
            UserError: the run cannot be opened, or none of its tasks retrieves.
        """
        self.config = config
        run = Run.open(config.run)
        self.run_id = run.record.run_id
        # torch keeps its number of threads per thread, so it is set in the one that uses it.
        self._model_thread = ThreadPoolExecutor(1, "model", torch.set_num_threads, (config.threads,))
        self.retrieval = self._model_thread.submit(Retrieval, run, _histories(run)).result()

    @staticmethod
    async def load(user_config: Mapping[str, Any]) -> "Service":
        """Load a service without holding up the event loop: the one before it answers meanwhile."""
        return await asyncio.to_thread(Service, build(ReplicaConfig, dict(user_config), "user_config"))

    async def answer(self, question: Question) -> Answer:
        """Answer a question in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, self.retrieval.answer, question)


def service_of(request: Request) -> Service:
    """Return the service that answers a request.

    Raises:
        RefusedError: none is loaded yet.
    """
    service: Service | None = request.app.state.service
    if service is None:
        raise RefusedError(503, "not_ready", "no run is loaded yet; try again in a few seconds")
    return service


def _histories(run: Run) -> Histories | None:
    try:
        return Histories.open(run.record.dataset, run.record.dataset_fingerprint)
    except UserError as error:
        _log.warning("no user histories, every user_id is answered by popularity: %s", error)
        return None
