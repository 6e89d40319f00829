"""The certificate of an endpoint that answers by https."""

import ssl
from pathlib import Path
from typing import Any

from raysys.component import FrozenConfig
from raysys.errors import UserError


class Tls(FrozenConfig):
    """A certificate and its private key, as PEM files that every node can read."""

    certificate: str
    """File with the certificate, and those between it and the root after it."""
    key: str
    """File with its private key, without a password."""

    def http_options(self) -> dict[str, Any]:
        """Return how Ray Serve calls them."""
        return {"ssl_certfile": str(Path(self.certificate).absolute()), "ssl_keyfile": str(Path(self.key).absolute())}

    def check(self) -> None:
        """Load both, as the proxy will.

        Raises:
            UserError: a file is not there or is no PEM, or they do not belong together.
        """
        for name in ("certificate", "key"):
            if not Path(getattr(self, name)).is_file():
                raise UserError(f"tls.{name}: no such file {getattr(self, name)}")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key, password=lambda: ""
            )
        except (ssl.SSLError, ValueError) as error:
            raise UserError(
                f"tls: {self.certificate} and {self.key} are no certificate with its key, as PEM and without a "
                f"password ({error})"
            ) from None
