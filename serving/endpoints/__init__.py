"""Endpoints, one file each, and one line in this dict."""

from serving.endpoints import events, health, recommend, users
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply, Scope

ENDPOINTS: dict[str, Endpoint] = {
    "recommend": recommend.ENDPOINT,
    "events": events.ENDPOINT,
    "user": users.GET,
    "delete_user": users.DELETE,
    "health": health.ENDPOINT,
}
"""Name -> endpoint."""

__all__ = ["ENDPOINTS", "Body", "Call", "Endpoint", "Reply", "Scope"]
