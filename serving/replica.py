"""One replica: the gateway and the service behind it. Ray Serve calls it by method names."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raysys.errors import UserError
from serving.http.gateway import Gateway
from serving.scoring.handle import ScorersByHandle
from serving.service import Service

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_log = logging.getLogger("ray.serve")


class Replica:
    """Holds the gateway for its whole life, and the service until the next one has loaded."""

    def __init__(self, scorers: "DeploymentHandle[Any] | None" = None) -> None:
        """Take the handle of the scorers, where the model is not to be here."""
        self._gateway = Gateway(names_answers=False)
        self._scorers = None if scorers is None else ScorersByHandle(scorers)

    def __serve_build_asgi_app__(self) -> Gateway:
        """Give Ray Serve the app that takes the requests."""
        return self._gateway

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load another run, or other limits, and answer by it from then on; what is under way ends with the old one.

        Raises:
            UserError: the first run cannot be loaded. A later one leaves the replica as it was, because Ray Serve would
                stop a replica that fails here; /healthz tells which run answers.
        """
        before = self._gateway.service
        try:
            store = before.store if before else None
            service = await Service.load(user_config, store, self._gateway.metrics, self._scorers)
        except UserError as error:
            if before is None:
                raise
            _log.error("not reconfigured, going on with run %s: %s", before.run_id, error)
        else:
            await service.items.start()
            self._gateway.service = service
            if before is not None:
                before.close()

    def check_health(self) -> None:
        """Let Ray Serve replace a replica whose model no longer answers.

        Raises:
            RuntimeError: it does not.
        """
        service = self._gateway.service
        if service is not None and (problem := service.problem()):
            raise RuntimeError(problem)

    def __del__(self) -> None:
        """End the model's thread. Ray Serve calls this once nothing is under way: it drains a replica that stops."""
        self._gateway.stopping = True
        if self._gateway.service is not None:
            self._gateway.service.close()
