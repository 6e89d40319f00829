"""What a replica writes down of requests: a line for each that failed, and the audit of admins.

Neither names users, items or secrets: paths appear as templates, errors without their text.
"""

import json
import logging
import os
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from serving.access.auth import KeyRing

_log = logging.getLogger("ray.serve")
_UNWRITTEN = 429  # a line for each would cost most when there is least to spare; metrics count them
_SHARED = (503, 504)  # what is wrong is wrong for all: few lines tell as much


class Failures:
    """Lines of JSON about requests that were refused or failed, unless they came too often."""

    def __init__(self, pause_s: float = 10.0) -> None:
        """Write of those for want of a part of the service at most one line in so many seconds, for each code."""
        self._pause_s = pause_s
        self._until: dict[str, float] = {}
        self._unwritten: Counter[str] = Counter()

    def note(self, request_id: str, method: str, template: str, status: int, code: str, seconds: float) -> None:
        """Write a line, or count it for the next line of its code."""
        if status == _UNWRITTEN:
            return
        line: dict[str, object] = {
            "request_id": request_id,
            "method": method,
            "path": template,
            "status": status,
            "code": code,
            "ms": round(seconds * 1000, 1),
        }
        if status in _SHARED:
            now = time.monotonic()
            if now < self._until.get(code, 0.0):
                self._unwritten[code] += 1
                return
            self._until[code] = now + self._pause_s
            line["unwritten"] = self._unwritten.pop(code, 0)
        _log.log(logging.ERROR if status >= 500 else logging.INFO, json.dumps(line))


def note_fault(what: str, error: BaseException) -> None:
    """Write where an error of ours happened; its text stays out, because it may repeat what a client sent."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [*traceback.format_tb(cause.__traceback__), f"{type(cause).__name__}\n"]
        cause = cause.__cause__ or cause.__context__
    _log.error("%s failed\n%s", what, "".join(lines))


class Audit:
    """A file of JSON lines, one for each call that needs the scope admin; readable by its owner alone."""

    def __init__(self, path: Path, ring: KeyRing | None) -> None:
        self._path, self._ring = path, ring

    def note(
        self, request_id: str, key_id: str | None, method: str, template: str, values: Mapping[str, str], status: int
    ) -> None:
        """Add a line; for what stood in the path it has a keyed hash."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "key": key_id,
            "call": f"{method} {template}",
            "request_id": request_id,
            "status": status,
        }
        if self._ring is not None:
            line |= {name: self._ring.stand_in(value) for name, value in values.items()}
        try:
            self._write(f"{json.dumps(line)}\n".encode())
        except OSError as error:  # what was done, is done: the client must know
            _log.error("audit: %s not written to: %s; request %s", self._path, error, request_id)

    def _write(self, line: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)  # by one write, because replicas share the file
        finally:
            os.close(handle)
