"""Endpoints, one file each, and one line in this dict."""

from serving.endpoints import health, metrics, models, readiness, recommend
from serving.endpoints.endpoint import Body, Call, Endpoint, Raw, Replica, Reply, Scope

ENDPOINTS: dict[str, Endpoint] = {
    "recommend": recommend.ENDPOINT,
    "models": models.ENDPOINT,
    "health": health.ENDPOINT,
    "readiness": readiness.ENDPOINT,
    "metrics": metrics.ENDPOINT,
}
"""Name -> endpoint."""

__all__ = ["ENDPOINTS", "Body", "Call", "Endpoint", "Raw", "Replica", "Reply", "Scope"]
