"""A real Redis for proofs: on a port of its own, ended with the block."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Server:
    """A redis-server that can be stopped and started again with what it has kept."""

    folder: Path
    port: int
    keeps: str
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it; what it wrote before is there again."""
        options = [
            "--port",
            str(self.port),
            "--dir",
            str(self.folder),
            "--appendonly",
            self.keeps,
            "--appendfsync",
            "always",
        ]
        command = ["redis-server", *options, "--save", "", "--daemonize", "no", "--bind", "127.0.0.1"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith(b"+PONG"):
                    return
            time.sleep(0.1)
        raise SystemExit("redis-server does not answer")

    def kill(self) -> None:
        """Kill it, as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def redis_server(keeps: str = "yes") -> Iterator[Server]:
    """Run a Redis inside the block, which writes down every change before it answers; or, with "no", none."""
    with tempfile.TemporaryDirectory(prefix="redis") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        server = Server(Path(folder), port, keeps)
        server.start()
        try:
            yield server
        finally:
            server.kill()
