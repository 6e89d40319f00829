"""Trains with several workers from within a process of Ray that follows them, such as a trial of a search."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from raysys import cluster
from raysys.config import RunConfig
from raysys.training.fit import launch
from raysys.training.loop import Metrics, read_safe_history

_LOOK_EVERY = 0.1  # seconds


def run_workers(
    config: RunConfig, directory: Path, on_epoch: Callable[[Metrics], None], resources: Mapping[str, float]
) -> None:
    """Train in a group of Ray Train's workers, each with such resources; `on_epoch` is called here for every epoch.

    An interrupted training goes on from its newest checkpoint, and the epochs before it are told again. Where
    `on_epoch` ends this process, the workers end with it.
    """
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            launch(config, directory, resources)
        except BaseException as error:
            failures.append(error)

    with cluster.connected():
        fitting, told = threading.Thread(target=fit, daemon=True), 0
        fitting.start()
        while fitting.is_alive():
            fitting.join(_LOOK_EVERY)
            told = _tell(directory, told, on_epoch)
        _tell(directory, told, on_epoch)
    for failure in failures:
        of_workers = getattr(failure, "worker_failures", None)  # Ray Train: one error per rank
        raise next(iter(of_workers.values()), failure) if of_workers else failure


def _tell(directory: Path, told: int, on_epoch: Callable[[Metrics], None]) -> int:
    """Tell of the epochs behind those that were told already; return how many have been told now."""
    found: list[Metrics] = []
    with contextlib.suppress(FileNotFoundError):  # the newest checkpoint was replaced meanwhile: the next look sees it
        found = read_safe_history(directory)
    for metrics in found[told:]:
        on_epoch(metrics)
    return max(told, len(found))
