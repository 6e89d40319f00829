"""The numbers of one replica, for Prometheus. Labels name endpoints, codes and runs: never users, items or keys."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms, in a registry of their own."""

    kind = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "raysys_requests", "Requests, by endpoint and status.", ["endpoint", "status"], registry=own
        )
        self._refused = Counter("raysys_refused", "Requests refused or failed, by code.", ["code"], registry=own)
        self._seconds = Histogram(
            "raysys_request_seconds",
            "From the head of a request to its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=own,
        )
        self._sizes = Histogram("raysys_model_batch_size", "Questions answered at once.", buckets=_SIZES, registry=own)
        self._model = Histogram("raysys_model_seconds", "Of the model, for a batch.", buckets=_SECONDS, registry=own)
        self._scored = Histogram(
            "raysys_scorer_seconds",
            "From sending a batch to a scorer to its answers.",
            ["answered"],
            buckets=_SECONDS,
            registry=own,
        )
        self._store_failures = Counter("raysys_store_failures", "Requests that failed with the store.", registry=own)
        self._degraded = Counter("raysys_degraded", "Answers made without the store.", registry=own)
        self._waiting = Gauge("raysys_waiting_questions", "Questions that wait for the model.", registry=own)
        self._run = Gauge("raysys_run", "1 for the run that answers.", ["run_id"], registry=own)

    def request(self, endpoint: str, status: int, seconds: float, code: str | None) -> None:
        """Count a request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        if code is not None:
            self._refused.labels(code).inc()
        if code == "store_down":
            self._store_failures.inc()

    def degraded(self) -> None:
        """Count an answer that had to do without the store."""
        self._degraded.inc()

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch of the model."""
        self._sizes.observe(size)
        self._model.observe(seconds)

    def scored(self, seconds: float, answered: bool) -> None:
        """Count a batch that was sent to a scorer."""
        self._scored.labels(str(answered).lower()).observe(seconds)

    def text(self, run_id: str | None, waiting: int) -> bytes:
        """Return all numbers in the text format of Prometheus, with the run that answers and what waits for it now."""
        self._run.clear()
        if run_id is not None:
            self._run.labels(run_id).set(1)
        self._waiting.set(waiting)
        return generate_latest(self._registry)
