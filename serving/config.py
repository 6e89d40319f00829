"""The config of `raysys serve`, and the part of it that every replica is handed. Knows no ray."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from raysys.component import FrozenConfig, OneOf
from serving.access.auth import Access
from serving.access.tls import Tls
from serving.answers.ranking import RankingConfig
from serving.index import INDEXES
from serving.rules import RULES
from serving.stores import STORES, StoreConfig

MOST_ITEMS = 10_000
"""No list that is asked for may be longer."""
MOST_BATCH = 1_000
"""No more questions may be asked at once."""
MOST_EVENTS = 10_000
"""No more may be posted at once."""
MOST_CHANGES = 1_000
"""No more items may be changed at once."""
AT_ONCE = 2
"""Batches under way for each scorer: while one is answered, the next one is on its way."""


class Autoscaling(FrozenConfig):
    """How many replicas answer. A new one starts within 3 to 10 seconds: nearly all of it is imports."""

    min_replicas: int = Field(1, ge=1)
    """Replicas that are always there."""
    max_replicas: int = Field(2, ge=1)
    """Most replicas under load; each takes `num_cpus`."""
    target_ongoing_requests: float = Field(4.0, gt=0)
    """Requests in flight per replica that are aimed at: fewer answer sooner, more need fewer replicas."""
    upscale_delay_s: float = Field(2.0, ge=0)
    """Seconds of too much load before replicas are added."""
    downscale_delay_s: float = Field(60.0, ge=0)
    """Seconds of too little load before replicas are taken away."""

    @model_validator(mode="after")
    def _ordered(self) -> "Autoscaling":
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})")
        return self


class ScorerScaling(Autoscaling):
    """How many scorers answer. A new one loads the run and builds the index before it answers."""

    max_replicas: int = Field(1, ge=1)
    """Most scorers under load; each takes the `num_cpus` and `num_gpus` of a scorer."""
    target_ongoing_requests: float = Field(1.5, gt=0)
    """Batches in flight per scorer that are aimed at; a replica has at most 2 for each of `max_replicas`."""


class ScorerConfig(FrozenConfig):
    """Processes that have the model, so that replicas need none: network and index, once for many replicas."""

    num_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each scorer; with any, network and item vectors are on it."""
    num_cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each scorer."""
    autoscaling: ScorerScaling = ScorerScaling()


class Limits(FrozenConfig):
    """How much a replica takes on."""

    body_bytes: int = Field(256 << 10, ge=1024)
    """Largest body of a request; a larger one is refused with 413."""
    waiting: int = Field(40, ge=1)
    """Most questions that wait while the model answers a whole batch; further ones are refused with 429. So at most
    `waiting` + `batch` are under way, and who is let in is answered within the time of some two batches, however much
    load there is; 64 clients that each wait for their answer are never refused. A front that had to refuse
    lets in, for five seconds, only `batch` and half of one."""
    deadline_ms: float = Field(2000.0, gt=0)
    """Milliseconds within which the model must have a question; what would wait longer is refused at once with 429.
    A client may ask for less with the header x-deadline-ms."""
    batch: int = Field(32, ge=1, le=MOST_BATCH)
    """Most questions that the model answers at once; it takes what waits, and never waits for more."""
    events: int = Field(1000, ge=1, le=MOST_EVENTS)
    """Most events that a request may post."""
    items: int = Field(1000, ge=1, le=MOST_CHANGES)
    """Most items that a request may change, withdraw and restore."""


class AnswerConfig(FrozenConfig):
    """What every replica needs to answer, beside the run."""

    k: int = Field(10, ge=1, le=MOST_ITEMS)
    """Items in an answer where the request does not say."""
    k_max: int = Field(100, ge=1, le=MOST_ITEMS)
    """Most items a request may ask for."""
    threads: int = Field(1, ge=1)
    """CPU threads of each replica's torch; with several replicas on a machine, one each is fastest."""
    store: Annotated[StoreConfig, OneOf(STORES, default="embedded")] = Field(
        {"kind": "embedded"}, validate_default=True
    )
    """Where users' events are kept."""
    limits: Limits = Limits()
    access: Access = Access()
    retrieval: Annotated[FrozenConfig, OneOf(INDEXES, default="auto")] = Field({"kind": "auto"}, validate_default=True)
    """How the best items of the catalogue are found."""
    ranking: RankingConfig = RankingConfig()
    rules: tuple[Annotated[FrozenConfig, OneOf(RULES)], ...] = ()
    """Business rules; each is applied to every recommendation."""

    @model_validator(mode="after")
    def _consistent(self) -> "AnswerConfig":
        if self.k > self.k_max:
            raise ValueError(f"k ({self.k}) must be at most k_max ({self.k_max})")
        return self


class ServeConfig(AnswerConfig):
    """Everything `raysys serve` needs beside the run."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""
    num_cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each replica."""
    request_timeout_s: float = Field(30.0, gt=0)
    """Seconds after which a request that has no answer is given up (408)."""
    start_timeout_s: float = Field(300.0, gt=0)
    """Seconds after which an application that does not become ready is given up."""
    autoscaling: Autoscaling = Autoscaling()
    scorer: ScorerConfig | None = None
    """Answer by a model in processes of its own; null has it in every replica."""
    tls: Tls | None = None
    """Answer by https; null answers by http."""

    @model_validator(mode="after")
    def _guarded(self) -> "ServeConfig":
        if not self.access.enabled and not is_loopback(self.host):
            raise ValueError(
                f"access.enabled: without keys only this machine may ask, not {self.host}; leave access on "
                "(`raysys keys add` makes a key), or listen on 127.0.0.1"
            )
        return self

    def with_places(self, root: str, project: str) -> "ServeConfig":
        """Return the config with a place for everything that is kept: ROOT/serving/PROJECT where it names none."""
        place, access = f"{Path(root).absolute()}/serving/{project}", self.access
        files = {"keys": access.keys or f"{place}/keys.json", "audit": access.audit or f"{place}/audit.jsonl"}
        kept = {"store": self.store.with_place(root, project), "access": access.model_copy(update=files)}
        return self.model_copy(update=kept)

    @property
    def most_under_way(self) -> int:
        """Most questions that a replica has let in: those that wait, and those that the model or scorers have."""
        return self.limits.waiting + self._most_taken

    @property
    def enough_under_way(self) -> int:
        """Questions that keep model or scorers of a replica busy, half a batch being there when a batch is done."""
        return min(self.limits.waiting, self.limits.batch // 2) + self._most_taken

    @property
    def _most_taken(self) -> int:
        return self.limits.batch * (AT_ONCE * self.scorer.autoscaling.max_replicas if self.scorer else 1)

    def replica(self, run: str) -> "ReplicaConfig":
        """Return what a replica needs to answer for the run in this directory."""
        own = {name: getattr(self, name) for name in AnswerConfig.model_fields}
        return ReplicaConfig(run=run, scorers=self.scorer.autoscaling.max_replicas if self.scorer else 0, **own)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ReplicaConfig(AnswerConfig):
    """What a replica is reconfigured with while it runs: another run, or other limits."""

    run: str
    """Directory of the run."""
    scorers: int = 0
    """Most scorers that answer for all replicas; 0 where each replica answers itself."""
