"""Connects to Ray, or starts one here: quiet, with the settings that make a small machine quick."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from raysys.errors import UserError

ENVIRONMENT = {
    "RAY_num_workers_soft_limit": "8",  # keep idle workers: each new one imports for seconds
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_worker_niceness": "0",  # at the default 15 a busy machine starves every worker
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # V2 starts up to 32 actors to read parquet footers
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # train.report blocks for one interval
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def prepare_environment() -> None:
    """Set Ray's environment variables, where the user has not; must happen before ray is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Be connected to Ray inside the block: to the current one, to $RAY_ADDRESS, or to one started for the block.

    Only a Ray that this call started is stopped at the end. What is printed inside goes to stderr: stdout is for
    results. A UserError raised inside a task comes out as itself.
    """
    prepare_environment()
    import ray

    quiet_ray()
    started = not ray.is_initialized()
    if started:
        _start(ray)
    try:
        with contextlib.redirect_stdout(sys.stderr), user_errors():  # Ray reports dead workers on stdout
            yield
    finally:
        if started:
            ray.shutdown()


def places_for(tasks: int) -> int:
    """Return how many of so many busy tasks can run at once; at least one."""
    import ray

    logical = ray.cluster_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
    return max(1, min(tasks, int(logical // cpus_per_task())))


def cpus_per_task() -> float:
    """Return how many of Ray's logical CPUs one busy task takes, so that no more run at once than there are cores.

    A local Ray has more logical CPUs than cores, for libraries that wait for each other; a cluster's are real.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    logical = ray.cluster_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
    cores = os.cpu_count() or 1
    return max(1.0, float(int(logical // cores))) if len(nodes) == 1 else 1.0


def quiet_ray() -> None:
    """Silence the log lines of Ray's libraries in this process, errors excepted."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _start(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise UserError(f"RAY_ADDRESS={address}: no Ray answers there ({error}); start it or unset it") from None
        return
    # Logical CPUs: fewer than four, and Data, Train and Tune wait for each other for ever.
    cores = max(4, os.cpu_count() or 1)
    for attempt in (1, 2):  # a starved machine can miss Ray's fixed start-up limit once
        try:
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == 2:
                raise RuntimeError("Ray did not start here, twice; `raysys doctor` tells more") from error


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise the UserError that hides inside an error of Ray, so that the command can print it plainly."""
    try:
        yield
    except Exception as error:  # a RayTaskError(UserError) is a UserError too, with a traceback for its text
        found = _hidden_user_error(error)
        if found is None:
            raise
        raise UserError(str(found)) from None


def _hidden_user_error(error: BaseException) -> UserError | None:
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, UserError):
            inner = getattr(current, "cause", None)
            return inner if isinstance(inner, UserError) else current
        seen.add(id(current))
        inner_errors = [getattr(current, "cause", None), current.__cause__, current.__context__]
        failures = getattr(current, "worker_failures", None)  # Ray Train: one error per rank
        queue += [*inner_errors, *(failures.values() if isinstance(failures, dict) else ())]
    return None
