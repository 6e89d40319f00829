"""Under which name the store knows a user: the id itself, or its pseudonym where the dataset has pseudonyms."""

import os
import re

from raysys.data.dataset import Manifest
from raysys.data.privacy import Pseudonymise, key_check, pseudonym
from raysys.errors import UserError

_PSEUDONYM = re.compile(r"[0-9a-f]{32}")


class Identity:
    """Turns the ids of requests into names of the store, as the dataset of a run was made."""

    def __init__(self, manifest: Manifest) -> None:
        """Read the key of a pseudonymised dataset, where its variable is set here.

        Raises:
            UserError: the variable holds another key than the dataset's.
        """
        self._secret: bytes | None = None
        node = manifest.config.get("pseudonymise")
        self._variable = None if node is None else Pseudonymise.model_validate(node).key.removeprefix("env ")
        if self._variable is not None and os.environ.get(self._variable):
            self._secret = Pseudonymise.model_validate(node).secret()
            if manifest.key_check not in (None, key_check(self._secret)):
                raise UserError(
                    f"${self._variable} holds another key than the one that made the pseudonyms of dataset "
                    f"{manifest.project} {manifest.version}; set that one, or unset it and ask by pseudonyms"
                )

    def name(self, user_id: str) -> str:
        """Return the name of a user.

        Raises:
            UserError: users have pseudonyms, the key is not here, and this is none.
        """
        if self._secret is not None:
            return pseudonym(user_id, self._secret)
        if self._variable is not None and not _PSEUDONYM.fullmatch(user_id):
            raise UserError(
                "user_id: users stand here under pseudonyms (32 hexadecimal digits); give one of these, or set "
                f"${self._variable} where the run is served, and give real ids"
            )
        return user_id
