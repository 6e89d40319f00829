"""Who may ask what, and how often: looks keys up, and counts the requests of each. Every replica counts for itself."""

import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from raysys.component import FrozenConfig
from raysys.errors import UserError
from serving.access.keys import Key, KeyFile, Scope, read_keys, split_key
from serving.errors import RefusedError

_log = logging.getLogger("ray.serve")
_LOOK_EVERY_S = 1.0
_NOBODY = "0" * 64
Origin = Annotated[str, Field(pattern=r"^https?://[^/*\s]+$")]


class Access(FrozenConfig):
    """Who may ask."""

    enabled: bool = True
    """Whether a key is needed; without, only this machine may listen (host 127.0.0.1)."""
    keys: str | None = None
    """The file of keys, which replicas read again when it changes; null takes ROOT/serving/PROJECT/keys.json."""
    audit: str | None = None
    """Where calls that need the scope admin are noted; null takes ROOT/serving/PROJECT/audit.jsonl."""
    cors: tuple[Origin, ...] = ()
    """Origins whose pages may call from a browser, like https://shop.example; none by default."""


class KeyRing:
    """The keys of a file as they are now; where the file is broken, as they last were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Key] = {}
        self._pepper = b""
        self._stamp: object = None
        self._looked = -_LOOK_EVERY_S

    def find(self, presented: str) -> Key | None:
        """Return the key that a client sent; an id that is not known takes the same steps as a wrong secret."""
        self._look()
        parts = split_key(presented)
        if parts is None:
            return None
        found = self._known.get(parts[0])
        right = hmac.compare_digest(_NOBODY if found is None else found.sha256, parts[1])
        return found if right else None

    def stand_in(self, value: str) -> str:
        """Return what stands for a value where it must not be named: a hash that only the file's owner can repeat."""
        self._look()
        return hmac.new(self._pepper, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        try:
            facts = self._path.stat()
            stamp: object = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        except OSError as error:
            stamp = error.errno
        if stamp != self._stamp:
            self._stamp = stamp
            self._read()

    def _read(self) -> None:
        try:
            file: KeyFile = read_keys(self._path)
        except UserError as error:
            _log.error("keys: going on with the %d known before: %s", len(self._known), error)
        else:
            self._known, self._pepper = {key.id: key for key in file.keys}, file.pepper.encode()


class Bucket:
    """Requests that a key still has: `rate` more every second, never more than `burst`."""

    def __init__(self, rate: float, burst: float) -> None:
        self.limits = (rate, burst)
        self._left, self._at = burst, time.monotonic()

    def take(self) -> float:
        """Take one and return 0, or the seconds until there is one."""
        rate, burst = self.limits
        now = time.monotonic()
        self._left, self._at = min(burst, self._left + (now - self._at) * rate), now
        if self._left < 1:
            return (1 - self._left) / rate
        self._left -= 1
        return 0.0


class Guard:
    """Admits requests by their keys."""

    def __init__(self, config: Access) -> None:
        self.config = config
        self.ring = KeyRing(Path(config.keys)) if config.enabled and config.keys is not None else None
        self._buckets: dict[str, Bucket] = {}

    def admit(self, headers: Mapping[bytes, bytes], scope: Scope | None) -> str | None:
        """Return the id of the key that a request came with; None where none is asked for.

        Raises:
            RefusedError: 401 without a known key, 403 where it does not allow this, 429 where it asks too often.
        """
        if self.ring is None or scope is None:
            return None
        key = self._key(self.ring, headers)
        if scope not in key.scopes:
            given = ", ".join(key.scopes)
            raise RefusedError(403, "forbidden", f"this needs a key with the scope {scope}; this one has: {given}")
        wait = self._wait(key)
        if wait:
            told = f"more than {key.rate:g} requests a second with this key; try again in {wait:.2g} s"
            raise RefusedError(429, "rate_limited", told, {"retry-after": str(int(wait) + 1)})
        return key.id

    def _key(self, ring: KeyRing, headers: Mapping[bytes, bytes]) -> Key:
        presented = _presented(headers)
        if presented is None:
            raise _unknown("a key is needed: send the header `authorization: Bearer KEY` or `x-api-key: KEY`")
        key = ring.find(presented)
        if key is None:
            raise _unknown("this key is not known here; `raysys keys list` shows which there are")
        if key.expires is not None and key.expires <= datetime.now(UTC):
            raise _unknown("this key has expired; ask for another one")
        return key

    def _wait(self, key: Key) -> float:
        if key.rate is None:
            return 0.0
        limits = (key.rate, key.burst or max(1.0, key.rate))
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.limits != limits:
            bucket = self._buckets[key.id] = Bucket(*limits)
        return bucket.take()


def _presented(headers: Mapping[bytes, bytes]) -> str | None:
    kind, _, value = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer" and value.strip():
        return value.strip().decode("latin-1")
    found = headers.get(b"x-api-key", b"").strip()
    return found.decode("latin-1") if found else None


def _unknown(message: str) -> RefusedError:
    return RefusedError(401, "unauthorized", message, {"www-authenticate": 'Bearer realm="raysys"'})
