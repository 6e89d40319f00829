"""What is checked before anything starts: whether a run can be served, who may ask, and whether the port is free."""

import errno
import socket
from pathlib import Path
from typing import Any

from raysys.errors import UserError
from raysys.progress import console
from raysys.runs import Run
from serving.access.keys import first_key
from serving.config import ServeConfig


def check_run(run: Run) -> None:
    """Refuse a run that cannot answer.

    Raises:
        UserError: its files are damaged, or none of its tasks retrieves.
    """
    from raysys.tasks import TASKS
    from raysys.tasks.task import Retrieves

    tasks: dict[str, Any] = dict(run.config.tasks)
    if not any(issubclass(TASKS[task.kind], Retrieves) for task in tasks.values()):
        names = ", ".join(tasks)
        raise UserError(
            f"RUN {run.record.run_id}: none of its tasks ({names}) retrieves items; train with next_item among them"
        )


def check_access(config: ServeConfig) -> None:
    """See that somebody can ask: where there is no file of keys yet, make one with a key, and show that once.

    Raises:
        UserError: the file of keys, or the certificate, is not right.
    """
    if config.tls is not None:
        config.tls.check()
    access = config.access
    if not access.enabled:
        return
    assert access.keys is not None, "settled by `with_places`"
    made = first_key(Path(access.keys))
    if made is None:
        console.print("  keys: those of `raysys keys list`; export one as RAYSYS_KEY", soft_wrap=True)
        return
    console.print("  a key for everything, shown this once (`raysys keys` makes others):", soft_wrap=True)
    console.print(f"    export RAYSYS_KEY={made}", soft_wrap=True, markup=False)


def settle_port(config: ServeConfig) -> ServeConfig:
    """Return the config with a port that is free now: its own, or any free one for 0.

    Raises:
        UserError: something listens there already, or the host is not one of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET  # as Ray Serve's proxy binds
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
            return config.model_copy(update={"port": probe.getsockname()[1]})
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port: {config.port} on {config.host} is in use; stop what listens there, or give another --port "
                "(0 takes any free one)"
            ) from None
        raise UserError(f"host, port: cannot listen on {config.host}:{config.port} ({error.strerror})") from None
