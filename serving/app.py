"""The Ray Serve application: described as data, deployed, waited for, stopped.

It is deployed by config, not by `serve.run`: then a change of `user_config` alone (another run) reaches running
replicas in place, where `serve.run` restarts them (docs/decisions/0006-serve-deployed-by-config.md).
"""

import contextlib
import io
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raysys import cluster
from raysys.component import kind_of
from raysys.errors import UserError
from raysys.progress import stage
from raysys.runs import Run
from serving import frontend
from serving.checks import check_access, check_run, settle_port
from serving.config import AT_ONCE, Autoscaling, ScorerConfig, ServeConfig
from serving.users.seeding import seed

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION = "recommender"
DEPLOYMENT, SCORER = "Replica", "Scorer"
_MEASURED_EVERY_S = 1.0  # Ray's 10 s would be waited for before a step of load is seen at all
_LOOK_BACK_S = 5.0  # load is averaged over this
_POLL_S = 0.2


def build(args: dict[str, Any]) -> "Application":
    """Make what `import_path` names: with args, those of a Scorer, the model is in processes of its own.

    Whatever varies comes as `user_config`: other args would restart the replicas.
    """
    from ray import serve

    from serving.replica import Replica
    from serving.scoring.scorer import Scorer

    deployment = serve.deployment(name=DEPLOYMENT)(serve.ingress()(Replica))
    if not args:
        return deployment.bind()
    return deployment.bind(serve.deployment(name=SCORER)(Scorer).bind(**args))


def application(run: Run, config: ServeConfig) -> dict[str, Any]:
    """Describe the application in the form of Ray Serve's config files and REST interface."""
    user_config = config.replica(str(run.path.absolute())).model_dump()
    replicas = {
        "name": DEPLOYMENT,
        "user_config": user_config,
        # Above what a replica lets wait: it refuses at once and says when to come again, which Ray does not.
        "max_ongoing_requests": 2 * config.most_under_way,
        "ray_actor_options": {"num_cpus": config.num_cpus},
        "autoscaling_config": scaled(config.autoscaling),
    }
    described: dict[str, Any] = {"name": APPLICATION, "route_prefix": "/", "import_path": "serving.app:build"}
    if config.scorer is None:
        described["deployments"] = [replicas]
    else:
        described["args"] = {"wants_gpu": config.scorer.num_gpus > 0}
        described["deployments"] = [replicas, _scorers(config.scorer, config.autoscaling.max_replicas, user_config)]
    return {
        "http_options": frontend.http_options(config),
        "logging_config": {"enable_access_log": False},  # a line for every request costs a part of the throughput
        "applications": [described],
    }


def scaled(config: Autoscaling) -> dict[str, Any]:
    """Return how Ray Serve is to measure load and follow it."""
    return {**config.model_dump(), "metrics_interval_s": _MEASURED_EVERY_S, "look_back_period_s": _LOOK_BACK_S}


def _scorers(config: ScorerConfig, num_replicas: int, user_config: dict[str, Any]) -> dict[str, Any]:
    scaling = config.autoscaling
    return {
        "name": SCORER,
        "user_config": user_config,
        # Never the bound: replicas have their own, and questions after health must not wait.
        "max_ongoing_requests": 4 * num_replicas * AT_ONCE * scaling.max_replicas,
        "ray_actor_options": {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
        "autoscaling_config": scaled(scaling),
        "rolling_update_percentage": 1.0,  # all load another run at the same time, answering by the old one meanwhile
    }


@contextlib.contextmanager
def served(run_path: str, config: ServeConfig) -> Iterator[str]:
    """Serve a run inside the block, which is given the URL; nothing is left listening after it.

    Raises:
        UserError: the run cannot be served, the port is taken, keys or certificate are not right, Ray Serve already
            runs here, or it is not ready in time.
    """
    run = Run.open(run_path)
    check_run(run)
    config = settle_port(config).with_places(run.config.root, run.record.project)
    check_access(config)
    seed(run, config)
    with cluster.connected():
        _refuse_second_application()
        _refuse_far_store(config)
        _refuse_missing_gpu(config)
        try:
            with stage(f"serve {run.record.run_id}") as remarks:
                url = deploy(run, config)
                health = wait_ready(url, run.record.run_id, config.start_timeout_s)
                remarks.append(f"{health['items']:,} items, {health['users']:,} users")
            yield url
        finally:
            stop()


def deploy(run: Run, config: ServeConfig) -> str:
    """Hand the application to Ray Serve, starting that if need be, and return the URL where it will answer.

    A second call with another run changes the running replicas in place; host and port stay what they were.
    """
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    described = ServeDeploySchema.model_validate(application(run, config))
    cluster.quiet_ray()
    serve.start(http_options=described.http_options.model_dump(), logging_config=described.logging_config)
    client = _get_global_client()
    assert client is not None, "serve.start left no controller"
    client.deploy_apps(described)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    scheme = "http" if config.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.port}"


def wait_ready(url: str, run_id: str, timeout_s: float) -> dict[str, Any]:
    """Wait until the application answers for a run, and return what /healthz says.

    Raises:
        UserError: it does not answer in time, or a replica refuses the run; the message says what Ray Serve knows.
        RuntimeError: it does not start.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        state, message = _state()
        if state == "DEPLOY_FAILED":
            raise _failure(message)
        health = _health(url) if state == "RUNNING" else {}
        if health.get("run_id") == run_id:
            return health
        if time.monotonic() > deadline:
            raise UserError(
                f"start_timeout_s: not ready after {timeout_s:g} s ({state}{message and ': '}{message}); "
                "give it more time, or fewer num_cpus"
            )
        time.sleep(_POLL_S)


def stop() -> None:
    """Stop the application, and Ray Serve with it."""
    from ray import serve

    with contextlib.redirect_stdout(io.StringIO()):  # Ray prints there that a task of the stopped controller failed
        serve.shutdown()  # type: ignore[no-untyped-call]


def _refuse_second_application() -> None:
    from ray import serve

    status = serve.status()
    if status.proxies or status.applications:
        names = ", ".join(status.applications) or "no applications"
        raise UserError(
            f"Ray Serve already runs on this Ray ({names}), and deploying by config would replace what it serves; "
            "stop it (`serve shutdown`), or unset RAY_ADDRESS to serve from a Ray of its own"
        )


def _refuse_far_store(config: ServeConfig) -> None:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if kind_of(config.store) == "embedded" and len(nodes) > 1:
        raise UserError(
            f"store: embedded is a file of one machine, but Ray has {len(nodes)} nodes; take kind: redis, which all "
            "replicas share (docs/serving-state.md)"
        )


def _refuse_missing_gpu(config: ServeConfig) -> None:
    """A Ray of our own gets no GPU later, and would wait for one."""
    import ray

    wanted = config.scorer.num_gpus * config.scorer.autoscaling.min_replicas if config.scorer else 0
    there = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if wanted > there and "RAY_ADDRESS" not in os.environ:
        raise UserError(f"scorer.num_gpus: {wanted:g} GPUs are wanted, and Ray has {there:g}; give num_gpus: 0")


def _state() -> tuple[str, str]:
    """Return the application's state and what Ray Serve says of it; its deployment knows more than the application."""
    from ray import serve

    found = serve.status().applications.get(APPLICATION)
    if found is None:
        return "NOT_STARTED", ""
    messages = [deployment.message for deployment in found.deployments.values()]
    return found.status.value, " ".join([*messages, found.message]).strip()


def _health(url: str) -> dict[str, Any]:
    """Ask /healthz directly, whatever $HTTP_PROXY says; nothing while the proxy has no route yet."""
    own = ssl._create_unverified_context()  # a certificate names the host that clients know, not this address
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=own))
    try:
        with direct.open(f"{url}/healthz", timeout=10) as answer:
            health: dict[str, Any] = json.load(answer)
            return health
    except urllib.error.URLError:
        return {}


def _failure(message: str) -> Exception:
    refused = re.findall(r"UserError: (.+)", message)  # the errors of replicas come as text
    return UserError(refused[-1]) if refused else RuntimeError(f"the application does not start: {message}")
