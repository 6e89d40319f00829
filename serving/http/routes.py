"""From a path to the endpoints behind it. Reads paths as they were sent, so that %2F in an id is no slash."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving.endpoints import Endpoint
from serving.errors import RefusedError, shortened
from serving.http.inbound import Inbound


@dataclass(frozen=True, slots=True)
class Route:
    """A path that leads somewhere."""

    template: str
    by_method: Mapping[str, Endpoint]
    values: Mapping[str, str]
    """What stands in the path for {name}, with %XX."""


class Routes:
    """Paths of endpoints."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._by_path: dict[str, dict[str, Endpoint]] = {}
        for one in endpoints:
            self._by_path.setdefault(one.path, {})[one.method] = one
        self._exact = {path: Route(path, own, {}) for path, own in self._by_path.items() if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)), path) for path in self._by_path if "{" in path
        ]

    def find(self, inbound: Inbound) -> Route:
        """Return where a request goes; a path without {name} wins.

        Raises:
            RefusedError: nowhere.
        """
        if (exact := self._exact.get(inbound.path)) is not None:
            return exact
        for pattern, path in self._patterns:
            if match := pattern.fullmatch(inbound.raw_path):
                return Route(path, self._by_path[path], match.groupdict())
        shown = f"{shortened(inbound.method)} {shortened(inbound.path)}"
        raise RefusedError(404, "not_found", f"{shown}: Not Found; see /docs for what there is")
