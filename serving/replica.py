"""One replica: the app and the service behind it. Ray Serve calls it by method names; ray itself is not needed."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from serving.gateway import create_app
from serving.service import Service


class Replica:
    """Holds the app for its whole life, and the service until the next one has loaded."""

    def __init__(self) -> None:
        self._gateway = create_app()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Give Ray Serve the app that takes the requests."""
        return self._gateway

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load another run, or other limits, and answer by it from then on; what is under way ends with the old one.

        Raises:
            UserError: the run cannot be loaded; the replica goes on as it was.
        """
        self._gateway.state.service = await Service.load(user_config)
