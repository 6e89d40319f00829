"""The Ray Serve application: described as data, deployed, waited for, stopped.

It is deployed by config, not by `serve.run`: then a change of `user_config` alone (another run) reaches running replicas
in place, where `serve.run` would restart them (docs/decisions/0006-serve-deployed-by-config.md).
"""

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raysys import cluster
from raysys.errors import UserError
from raysys.progress import console, stage
from raysys.runs import Run
from serving.config import ServeConfig

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION = "recommender"
_DEPLOYMENT = "Replica"
_LOOK_BACK_S = 11.0  # load is averaged over this; Ray wants more than its interval of 10 s between measurements
_POLL_S = 0.2


def build(args: dict[str, Any]) -> "Application":
    """Make the application that `import_path` in the config names. What varies comes as `user_config`, not as args."""
    from ray import serve

    from serving.replica import Replica

    return serve.deployment(serve.ingress()(Replica), name=_DEPLOYMENT).bind()


def application(run: Run, config: ServeConfig) -> dict[str, Any]:
    """Describe the application in the form that Ray Serve's config files and REST interface have."""
    scaling = config.autoscaling
    deployment = {
        "name": _DEPLOYMENT,
        "user_config": config.replica(str(run.path.absolute())).model_dump(),
        "max_ongoing_requests": config.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": config.num_cpus},
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "look_back_period_s": _LOOK_BACK_S,
        },
    }
    return {
        "http_options": {"host": config.host, "port": config.port},
        "logging_config": {"enable_access_log": False},  # a line per request costs a part of the throughput
        "applications": [
            {"name": APPLICATION, "route_prefix": "/", "import_path": "serving.app:build", "deployments": [deployment]}
        ],
    }


@contextlib.contextmanager
def served(run_path: str, config: ServeConfig) -> Iterator[str]:
    """Serve a run inside the block, at the URL that the block is given; nothing is left listening after it.

    Raises:
        UserError: the run cannot be served, the port is taken, or the application does not become ready in time.
    """
    run = Run.open(run_path)
    check_retrieves(run)
    config = settle_port(config)
    with cluster.connected():
        _refuse_second_serve()
        with stage(f"serve {run.record.run_id}") as remarks:
            try:
                url = deploy(run, config)
                health = wait_ready(url, config.start_timeout_s)
            except BaseException:
                stop()
                raise
            remarks.append(f"{health['items']:,} items, {health['users']:,} users")
        if not health["users"]:
            console.print(f"  no user histories: {run.record.dataset} cannot be read; user_id is answered by popularity")
        try:
            yield url
        finally:
            stop()


def deploy(run: Run, config: ServeConfig) -> str:
    """Hand the application to Ray Serve, which starts if need be, and return the URL where it will answer."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    described = ServeDeploySchema.model_validate(application(run, config))
    serve.start(http_options=described.http_options.model_dump(), logging_config=described.logging_config)
    cluster.quiet_ray()
    _get_global_client().deploy_apps(described)
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "") else config.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}"


def wait_ready(url: str, timeout_s: float) -> dict[str, Any]:
    """Wait until the application answers, and return what /healthz says.

    Raises:
        UserError: it does not answer within the time; the message is Ray Serve's.
        RuntimeError: it failed to start.
    """
    from ray import serve

    deadline = time.monotonic() + timeout_s
    while True:
        found = serve.status().applications.get(APPLICATION)
        status, message = (found.status, found.message) if found is not None else ("NOT_STARTED", "")
        if status == "RUNNING":
            return _get_json(f"{url}/healthz")
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RuntimeError(f"the application does not start: {message}")
        if time.monotonic() > deadline:
            raise UserError(f"start_timeout_s: not ready after {timeout_s:g} s ({status}: {message or 'no message'})")
        time.sleep(_POLL_S)


def stop() -> None:
    """Stop the application and Ray Serve with it."""
    from ray import serve

    serve.shutdown()
