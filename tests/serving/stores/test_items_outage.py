"""Replicas on one Redis server that goes away: changes are refused, and lists stay as they were."""

import asyncio
import time

import pytest
from asgi import post

from serving.config import ServeConfig
from serving.http.gateway import Gateway
from serving.service import Service

pytestmark = [pytest.mark.thorough, pytest.mark.process]


async def _popular(gateway):
    return [one["item_id"] for one in (await post(gateway, "/v1/popular", {"k": 60})).json["items"]]


async def _until(check, seconds=5.0):
    began = time.monotonic()
    while not await check():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def test_the_last_items_stay_while_redis_is_away_and_are_followed_after(shop, make_redis, tmp_path):
    server = make_redis("--appendonly", "no")
    store = {"kind": "redis", "url": server.url, "timeout_s": 5, "connect_timeout_s": 5}
    config = ServeConfig(access={"enabled": False}, k_max=60, store=store).with_places(str(tmp_path), "tests")

    async def started():
        service = await Service.load(config.replica(str(shop.path)).model_dump())
        await service.items.start()
        return Gateway(service)

    async def work():
        first, second = await started(), await started()
        assert (await post(first, "/v1/items", {"withdraw": ["i3"]})).status == 200
        assert await _until(lambda: _lacks(second, "i3")) < 1
        server.stop()
        refused = await post(second, "/v1/items", {"withdraw": ["i4"]})
        assert (refused.status, refused.json["error"]["code"]) == (503, "store_down")
        await asyncio.sleep(1.2)
        for gateway in (first, second):
            assert not await _lacks(gateway, "i4")
            assert await _lacks(gateway, "i3")
            assert gateway.service.problem() is None
        server.start()  # with nothing in it
        for gateway in (first, second):
            await _until(lambda gateway=gateway: _has(gateway, "i3"))
        for gateway in (first, second):
            gateway.service.close()
            await gateway.service.store.close()

    asyncio.run(work())


async def _lacks(gateway, item):
    return item not in await _popular(gateway)


async def _has(gateway, item):
    return item in await _popular(gateway)
