"""Endpoints, one file each, and one line in this dict."""

from serving.endpoints import events, health, metrics, models, readiness, recommend, users
from serving.endpoints.endpoint import Body, Call, Endpoint, Raw, Replica, Reply, Scope

ENDPOINTS: dict[str, Endpoint] = {
    "recommend": recommend.ENDPOINT,
    "events": events.ENDPOINT,
    "user": users.GET,
    "delete_user": users.DELETE,
    "models": models.ENDPOINT,
    "health": health.ENDPOINT,
    "readiness": readiness.ENDPOINT,
    "metrics": metrics.ENDPOINT,
}
"""Name -> endpoint."""

__all__ = ["ENDPOINTS", "Body", "Call", "Endpoint", "Raw", "Replica", "Reply", "Scope"]
