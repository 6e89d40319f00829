"""API keys: made, kept as hashes in one JSON file, and taken back. Knows no HTTP.

A secret is 256 random bits, so that a fast hash is right: there is nothing to guess that a slow one would protect.
"""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import AwareDatetime, Field, ValidationError

from raysys.component import FrozenConfig
from raysys.errors import UserError, nearest

Scope = Literal["read", "events", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "events", "admin")
_PREFIX = "rs"


class Key(FrozenConfig):
    """A key as it is kept: whoever reads the file cannot use it."""

    id: str = Field(pattern="^[0-9a-f]{8}$")
    """Public part of the key; logs name it by this."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the secret part."""
    name: str
    """Who uses it."""
    scopes: tuple[Scope, ...]
    """What it allows."""
    rate: float | None = Field(None, gt=0)
    """Most requests a second, of each replica; null sets no limit."""
    burst: float | None = Field(None, ge=1)
    """Most requests at once after a pause; null takes those of a second."""
    created: AwareDatetime
    expires: AwareDatetime | None = None
    """From then on it is refused."""


class KeyFile(FrozenConfig):
    """The file of keys."""

    keys: tuple[Key, ...] = ()
    pepper: str = Field(default_factory=lambda: secrets.token_hex(32), min_length=32)
    """Secret of the hashes that stand for user ids in the audit log."""


def checked_scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    """Return scopes by their names, in order.

    Raises:
        UserError: there is no such scope.
    """
    for name in names:
        if name not in SCOPES:
            raise UserError(f"scope: {name!r}{nearest(name, SCOPES)} is none (allowed: {', '.join(SCOPES)})")
    return tuple(scope for scope in SCOPES if scope in names)


def split_key(presented: str) -> tuple[str, str] | None:
    """Return (id, sha256 of the secret) of a key as a client sends it, or None for what is no key."""
    parts = presented.split("_", 2)
    if len(parts) != 3 or parts[0] != _PREFIX:
        return None
    return parts[1], _hash(parts[2])


def read_keys(path: Path) -> KeyFile:
    """Return what a file of keys holds.

    Raises:
        UserError: there is none, or it is not right.
    """
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the keys ({error.strerror}); make one with `raysys keys add`") from None
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, finding["loc"])) or "the file" for finding in error.errors()}))
        raise UserError(f"{path}: not a file of keys (wrong: {fields}); restore it, or move it away") from None


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[Scope],
    rate: float | None = None,
    burst: float | None = None,
    days: float | None = None,
) -> str:
    """Make a key and return it; the file, made where there is none, keeps its hash alone.

    Raises:
        UserError: a limit is not positive, or the file is not right.
    """
    for given, value, least in (("rate", rate, 0.001), ("burst", burst, 1.0), ("days", days, 0.0001)):
        if value is not None and not value >= least:
            raise UserError(f"{given}: at least {least:g} is expected, not {value:g}")
    if rate is None and burst is not None:
        raise UserError(f"burst: {burst:g} has no effect without a rate; give both, or neither")
    now = datetime.now(UTC)
    expires = None if days is None else now + timedelta(days=days)
    key, text = _make(name, tuple(scopes), rate, burst, now, expires)
    _change(path, lambda keys: (*keys, key))
    return text


def revoke_key(path: Path, key_id: str) -> None:
    """Take a key back: within a second or two no replica admits it.

    Raises:
        UserError: there is no such key.
    """
    _named(path, key_id)
    _change(path, lambda keys: tuple(key for key in keys if key.id != key_id))


def rotate_key(path: Path, key_id: str, overlap: timedelta) -> str:
    """Make a key like another one, which expires after `overlap`, and return the new one.

    Raises:
        UserError: there is no such key.
    """
    old, now = _named(path, key_id), datetime.now(UTC)
    key, text = _make(old.name, old.scopes, old.rate, old.burst, now, old.expires)
    ends = min(now + overlap, old.expires or datetime.max.replace(tzinfo=UTC))
    ending = old.model_copy(update={"expires": ends})
    _change(path, lambda keys: (*(ending if one.id == key_id else one for one in keys), key))
    return text


def first_key(path: Path) -> str | None:
    """Make a key for everything where there is no file of keys yet, and return it; None where there is one.

    Raises:
        UserError: the file is not right.
    """
    if path.exists():
        read_keys(path)
        return None
    return add_key(path, "first", SCOPES)


def _make(
    name: str,
    scopes: tuple[Scope, ...],
    rate: float | None,
    burst: float | None,
    created: datetime,
    expires: datetime | None,
) -> tuple[Key, str]:
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    key = Key(
        id=key_id,
        sha256=_hash(secret),
        name=name,
        scopes=scopes,
        rate=rate,
        burst=burst,
        created=created,
        expires=expires,
    )
    return key, f"{_PREFIX}_{key_id}_{secret}"


def _named(path: Path, key_id: str) -> Key:
    known = {key.id: key for key in read_keys(path).keys}
    if key_id not in known:
        raise UserError(f"KEY {key_id}: no such key in {path}; `raysys keys list` shows the ids")
    return known[key_id]


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    """Write the file anew, whole or not at all, and readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        before = read_keys(path) if path.exists() else KeyFile()
        after = before.model_copy(update={"keys": change(before.keys)})
        handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp gives mode 600
        with os.fdopen(handle, "w") as file:
            file.write(after.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
