"""Endpoints, one file each, and one line in this dict."""

from serving.endpoints import (
    bundle,
    catalogue,
    events,
    health,
    metrics,
    models,
    popular,
    rank,
    readiness,
    recommend,
    similar,
    users,
)
from serving.endpoints.endpoint import Body, Call, Endpoint, Raw, Replica, Reply, Scope

ENDPOINTS: dict[str, Endpoint] = {
    "recommend": recommend.ENDPOINT,
    "recommend_batch": recommend.BATCH,
    "rank": rank.ENDPOINT,
    "similar": similar.ENDPOINT,
    "popular": popular.ENDPOINT,
    "bundle": bundle.ENDPOINT,
    "events": events.ENDPOINT,
    "user": users.GET,
    "delete_user": users.DELETE,
    "items": catalogue.POST,
    "item": catalogue.GET,
    "withdraw_item": catalogue.DELETE,
    "models": models.ENDPOINT,
    "health": health.ENDPOINT,
    "readiness": readiness.ENDPOINT,
    "metrics": metrics.ENDPOINT,
}
"""Name -> endpoint."""

__all__ = ["ENDPOINTS", "Body", "Call", "Endpoint", "Raw", "Replica", "Reply", "Scope"]
