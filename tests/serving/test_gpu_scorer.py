"""A scorer on a GPU answers as a model on the CPU does; skipped where there is none. Needs no Ray."""

import asyncio

import pytest
import torch
from asgi import post
from split import Piped, gateway_over, user_config

from serving.http.gateway import Gateway
from serving.scoring.scorer import Scorer
from serving.service import Service

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

WHO = [{"user_id": f"u{user}"} for user in range(20)] + [{"history": ["i3", "i4"]}, {"history": []}]
HOW = [
    {},
    {"k": 60, "exclude_seen": False},
    {"filters": {"brand": "acme", "price": {"at_least": 5}}},
    {"score": {"next_item": 1.0, "click": 0.5}, "context": {"tab": "1"}},
    {"diversity": 0.4},
]
OTHERS = [
    ("/v1/rank", {"history": ["i4"], "items": ["i5", "i7", "?"], "explain": True}),
    ("/v1/similar", {"item_id": "i5"}),
    ("/v1/similar", {"item_id": "i5", "by": "similar_item"}),
    ("/v1/bundle", {"items": ["i4", "i7"]}),
]
REQUESTS = [("/v1/recommend", {**who, **how}) for who in WHO for how in HOW] + OTHERS
NEAR = 2e-3


async def answers(config):
    """Return what a scorer on the GPU and a model on the CPU answer to each request."""
    scorer = Scorer(wants_gpu=True)
    await scorer.reconfigure(config)
    divided = await gateway_over(config, Piped(scorer))
    own = await Service.load({**config, "scorers": 0}, divided.service.store)
    await own.items.start()
    return [[await post(gateway, *one) for gateway in (divided, Gateway(own))] for one in REQUESTS]


def test_answers_are_those_of_the_cpu(shop, tmp_path):
    pairs = asyncio.run(answers(user_config(shop, tmp_path, k=10, k_max=60)))
    for (asked, wanted), request in zip(pairs, REQUESTS, strict=True):
        assert (asked.status, wanted.status) == (200, 200), request
        assert near(asked.json, wanted.json), request


def near(one, other):
    """Say whether two answers are the same; scores may differ by rounding, and items of one score change places."""
    ranked, wanted = (sorted(answer.pop("items"), key=lambda item: item["item_id"]) for answer in (one, other))
    names, known = ([item["item_id"] for item in items] for items in (ranked, wanted))
    scores = ([item.get("score") or 0.0 for item in items] for items in (ranked, wanted))
    return names == known and all(abs(a - b) <= NEAR for a, b in zip(*scores, strict=True))
