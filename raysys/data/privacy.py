"""Pseudonyms: a keyed hash stands for every user id from the first step on. The key is never written."""

import hashlib
import os
import re

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from raysys.component import FrozenConfig
from raysys.errors import UserError

_KEY = re.compile(r"^env (\w+)$")
_MIN_KEY = 16
_BYTES = 16


class Pseudonymise(FrozenConfig):
    """How user ids are replaced: by keyed BLAKE2b (RFC 7693), 128 bits as 32 hexadecimal digits."""

    key: str
    """`env NAME`: the environment variable that holds the secret, at least 16 characters."""

    @field_validator("key")
    @classmethod
    def _from_the_environment(cls, value: str) -> str:
        if not _KEY.match(value):
            raise ValueError("write `key: env NAME`; the secret itself must not stand in a config")
        return value

    def secret(self) -> bytes:
        """Return the key from the environment.

        Raises:
            UserError: the variable is not set, or is too short to be a secret.
        """
        name = self.key.removeprefix("env ")
        found = os.environ.get(name, "")
        if len(found) < _MIN_KEY:
            state = "is not set" if not found else f"holds {len(found)} characters"
            raise UserError(
                f"pseudonymise.key: ${name} {state}; set it to a secret of at least {_MIN_KEY} characters, always the "
                "same for a dataset (`openssl rand -hex 32` makes one)"
            )
        return hashlib.sha256(found.encode()).digest()


def pseudonym(user_id: str, secret: bytes) -> str:
    """Return the name under which a user stands in a pseudonymised dataset."""
    return hashlib.blake2b(user_id.encode(), key=secret, digest_size=_BYTES).hexdigest()


def pseudonyms(user_ids: pa.Array | pa.ChunkedArray, secret: bytes) -> pa.Array:
    """Return the pseudonym of every user id [N]; null and the empty text, which are no ids, stay as they are."""
    ids = user_ids.combine_chunks() if isinstance(user_ids, pa.ChunkedArray) else user_ids
    coded = ids if pa.types.is_dictionary(ids.type) else pc.dictionary_encode(ids)
    names = [name and pseudonym(name, secret) for name in coded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(coded.indices)


def key_check(secret: bytes) -> str:
    """Return what a manifest keeps of a key: enough to refuse another one, nothing to find it by."""
    return pseudonym("raysys key check", secret)
