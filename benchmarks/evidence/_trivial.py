"""The least that Ray Serve can deploy, scaled as ours is: what a second replica costs when it has nothing to load.

python benchmarks/evidence/_trivial.py PORT AUTOSCALING_JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

from raysys import cluster
from serving import frontend
from serving.app import scaled
from serving.config import Autoscaling, ServeConfig


async def _app(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    await asyncio.sleep(0.05)  # so that requests are under way at a time
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


class Trivial:
    """Holds nothing."""

    def __serve_build_asgi_app__(self) -> Any:
        return _app


def main() -> None:
    port, scaling = int(sys.argv[1]), Autoscaling.model_validate_json(sys.argv[2])
    config = ServeConfig(port=port, autoscaling=scaling)
    frontend.prepare(config)
    with cluster.connected():
        from ray import serve

        serve.start(http_options=frontend.http_options(config), logging_config={"enable_access_log": False})
        trivial = serve.deployment(
            max_ongoing_requests=1000,
            ray_actor_options={"num_cpus": config.num_cpus},
            autoscaling_config=scaled(scaling),
        )(serve.ingress()(Trivial))
        serve.run(trivial.bind(), route_prefix="/")
        print(json.dumps({"url": f"http://127.0.0.1:{port}"}), file=sys.__stdout__, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            serve.shutdown()


if __name__ == "__main__":
    main()
