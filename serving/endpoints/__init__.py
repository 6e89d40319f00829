"""Endpoints, one file each, and one line in this dict."""

from serving.endpoints import health, recommend
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply, Scope

ENDPOINTS: dict[str, Endpoint] = {
    "recommend": recommend.ENDPOINT,
    "health": health.ENDPOINT,
}
"""Name -> endpoint."""

__all__ = ["ENDPOINTS", "Body", "Call", "Endpoint", "Reply", "Scope"]
