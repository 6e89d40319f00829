"""One scorer: network and index, for the replicas that take requests. Ray Serve calls it by method names."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from raysys.configfile import build
from raysys.errors import UserError
from serving.answers.question import Answer, Question
from serving.catalogue.changes import Fields
from serving.config import ReplicaConfig
from serving.errors import RefusedError
from serving.http.journal import note_fault
from serving.metrics import Metrics
from serving.scoring.answerer import About
from serving.scoring.device import find_device
from serving.scoring.model import Model
from serving.scoring.scorers import Scored
from serving.service import Service
from serving.stores import Store, StoreDownError
from serving.waiting import LateError

_log = logging.getLogger("ray.serve")
_KEPT_S = 60.0  # how long a run that is no longer configured answers those who still ask it


class ScorerFaultError(Exception):
    """A fault of ours in a scorer, whose log has more."""


class Scorer:
    """Holds a service for each config that is asked for: two, while replicas change from one run to another."""

    def __init__(self, wants_gpu: bool = False) -> None:
        """Take a GPU where one is reserved.

        Raises:
            UserError: torch sees none.
        """
        self._services: dict[str, asyncio.Task[Service]] = {}
        self._device = find_device(wants_gpu)
        self._store: Store | None = None
        self._metrics = _Untold()
        self._asked: dict[str, float] = {}
        self._configured: str | None = None

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load another run, or other limits; those of before are kept while somebody asks for them.

        Raises:
            UserError: the first run cannot be loaded. A later one changes nothing, as for a Replica.
        """
        try:
            told = build(ReplicaConfig, dict(user_config), "user_config").model_dump_json()
            await self._service(told)
        except UserError as error:
            if self._configured is None:
                raise
            _log.error("not reconfigured: %s", error)
        else:
            self._configured = told

    async def hold(self, told: str) -> About | str:
        """See Remote."""
        try:
            return (await self._service(told)).answerer.about
        except UserError as error:
            return str(error)

    async def answer(
        self, told: str, version: int, questions: Sequence[Question], remaining: Sequence[float]
    ) -> Scored:
        """See Remote; batches of several replicas are answered as one where they wait together."""
        now = time.monotonic()
        service = await self._service(told)
        if version > service.items.live.version:
            with suppress(StoreDownError):  # then by the last items that are known
                await service.items.sync()
        refusal = await self.count_days(told) if any(question.days for question in questions) else None
        untils = [now + seconds for seconds in remaining]
        outcomes = await _outcomes(service, questions, untils, refusal)
        return Scored(_portable(outcomes), self._metrics.told())

    async def count_days(self, told: str) -> Exception | None:
        """See Remote."""
        try:
            await (await self._service(told)).answerer.count_days()
        except RefusedError as error:
            return error
        return None

    async def check_new(self, told: str, items: Mapping[str, Fields]) -> tuple[str, ...] | str:
        """See Remote."""
        try:
            return await (await self._service(told)).answerer.check_new(items)
        except UserError as error:
            return str(error)

    async def read_new(self, told: str, items: Mapping[str, Fields]) -> tuple[str, ...]:
        """See Remote."""
        return (await (await self._service(told)).answerer.read_new(items)).item_ids

    async def alive(self) -> None:
        """See Remote."""

    def check_health(self) -> None:
        """Let Ray Serve replace a scorer whose model no longer answers.

        Raises:
            RuntimeError: it does not.
        """
        for service in self._loaded():
            if problem := service.problem():
                raise RuntimeError(problem)

    def __del__(self) -> None:
        """End the models' threads."""
        for service in self._loaded():
            service.close()

    def _loaded(self) -> list[Service]:
        done = [task for task in self._services.values() if task.done() and not task.cancelled()]
        return [task.result() for task in done if task.exception() is None]

    async def _service(self, told: str) -> Service:
        self._asked[told] = time.monotonic()
        if told not in self._services:
            self._services[told] = asyncio.get_running_loop().create_task(self._load(told))
        return await asyncio.shield(self._services[told])

    async def _load(self, told: str) -> Service:
        try:
            service = await Service.load(json.loads(told), self._store, self._metrics, device=self._device)
            self._store = service.store
            await service.items.start()
        except BaseException:
            del self._services[told]  # whoever asks next tries again
            raise
        asyncio.get_running_loop().call_later(_KEPT_S, self._let_go)
        return service

    def _let_go(self) -> None:
        """Close what nobody asks for any more."""
        others = [told for told in self._services if told != self._configured and self._services[told].done()]
        for told in others:
            if time.monotonic() - self._asked[told] >= _KEPT_S:
                del self._asked[told]
                self._services.pop(told).result().close()
            else:
                asyncio.get_running_loop().call_later(_KEPT_S, self._let_go)


class _Untold(Metrics):
    """Batches until a replica is told of them, whose metrics they become."""

    def __init__(self) -> None:
        super().__init__()
        self._batches: deque[tuple[int, float]] = deque()

    def batch(self, size: int, seconds: float) -> None:
        self._batches.append((size, seconds))

    def told(self) -> list[tuple[int, float]]:
        return [self._batches.popleft() for _ in range(len(self._batches))]


async def _outcomes(
    service: Service, questions: Sequence[Question], untils: Sequence[float], refusal: Exception | None
) -> list[Answer | BaseException]:
    """Ask; what needs days that cannot be counted is refused."""
    assert isinstance(service.answerer, Model), "a scorer has the model itself"
    is_asked = [refusal is None or not question.days for question in questions]
    asked = [(one, until) for one, until, is_in in zip(questions, untils, is_asked, strict=True) if is_in]
    found = iter(await service.answerer.ask_admitted([one for one, _ in asked], [until for _, until in asked]))
    return [next(found) if is_in else refusal for is_in in is_asked]  # type: ignore[misc]


def _portable(outcomes: Sequence[Answer | BaseException]) -> list[Answer | Exception]:
    """Return what can be sent; faults are logged here, once for a batch, and sent without their texts."""
    sent: list[Answer | Exception] = []
    noted: BaseException | None = None
    for one in outcomes:
        if isinstance(one, Answer | LateError | RefusedError):
            sent.append(one)
            continue
        if one is not noted:
            note_fault("a batch", one)
            noted = one
        sent.append(ScorerFaultError(type(one).__name__))
    return sent
