"""Endpoints, one file each, and one line in this dict."""

from serving.endpoints import bundle, health, popular, rank, recommend, similar
from serving.endpoints.endpoint import Body, Call, Endpoint, Reply, Scope

ENDPOINTS: dict[str, Endpoint] = {
    "recommend": recommend.ENDPOINT,
    "recommend_batch": recommend.BATCH,
    "rank": rank.ENDPOINT,
    "similar": similar.ENDPOINT,
    "popular": popular.ENDPOINT,
    "bundle": bundle.ENDPOINT,
    "health": health.ENDPOINT,
}
"""Name -> endpoint."""

__all__ = ["ENDPOINTS", "Body", "Call", "Endpoint", "Reply", "Scope"]
