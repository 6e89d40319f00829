"""Endpoints, one file each: a router under /v1 (or beside it, for operations) and one line in this dict."""

from fastapi import APIRouter

from serving.endpoints import health, recommend

ENDPOINTS: dict[str, APIRouter] = {
    "recommend": recommend.router,
    "health": health.router,
}
