"""Items that training never saw, at once among all others: their vectors are those that their texts would have had."""

import numpy as np
import pandas as pd
import pytest
import torch
from starlette.testclient import TestClient
from test_answers import ask, ids, refused
from test_answers import change_items as change

import raysys
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.schema import FIRST_ITEM
from raysys.runs import Run
from serving.http.gateway import Gateway
from serving.index import Allowed, Asked, Extended, Products, make_index, search_exactly
from serving.index.approximate import Approximate
from serving.index.exact import Exact

pytestmark = pytest.mark.thorough
COLOURS, THINGS = ("red", "blue", "green", "white"), ("car", "boat", "ball", "lamp", "chair", "shirt", "book", "cup")


def text_run(root, model):
    """Train a run on visitors who stay with one thing, in whatever colour."""
    generator, views = np.random.default_rng(0), []
    for user in range(160):
        thing = user % len(THINGS)
        for day in range(6):
            item = thing * len(COLOURS) + int(generator.integers(len(COLOURS)))
            views.append(
                (f"u{user}", f"i{item}", 1_700_000_000_000 + day * 86_400_000, float(generator.random() < 0.5))
            )
    items = [
        {"item_id": f"i{n * len(COLOURS) + m}", "title": f"{colour} {thing}", "kind": thing, "price": float(n)}
        for n, thing in enumerate(THINGS)
        for m, colour in enumerate(COLOURS)
    ]
    pd.DataFrame(views, columns=["user_id", "item_id", "time", "click"]).to_parquet(root / "views.parquet")
    pd.DataFrame(items).to_parquet(root / "items.parquet")
    columns = {"user_id": "user_id", "item_id": "item_id", "timestamp": "time", "labels": {"click": "click"}}
    node = {
        "project": "things",
        "root": str(root),
        "sources": [{"path": str(root / "views.parquet"), "format": "parquet", "event": "view", "columns": columns}],
        "items": {"path": str(root / "items.parquet"), "categories": ["kind"], "numbers": ["price"]},
        "split": {"kind": "leave_one_out"},
    }
    dataset = ingest(build(IngestConfig, node, "things"), root / "datasets" / "things", each=in_process)
    return raysys.train(
        {
            "project": "things",
            "root": str(root),
            "dataset": str(dataset.path),
            "model": {"width": 16, "max_length": 8, "backbone": {"num_blocks": 1}, **model},
            "tasks": {"next_item": {}, "click": {}, "similar_item": {}},
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 10},
            "training": {"epochs": 5, "batch_size": 32, "threads": 1, "early_stopping": None},
            "evaluation": {"resamples": 20},
        }
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_run(tmp_path_factory.mktemp("texts"), {"items": {"text": {"directions": 16}}})


@pytest.fixture
def client(texts, serve, tmp_path):
    return TestClient(Gateway(serve(texts, tmp_path, k=5, k_max=60)), raise_server_exceptions=False)


def scores(answer):
    return {one["item_id"]: one["score"] for one in answer["items"]}


def test_a_new_item_with_a_known_text_scores_like_the_known_one(client):
    """The whole way of a text, from the sentence encoder through whitening and projection, is that of training."""
    answer = change(client, items=[{"item_id": "twin", "title": "red boat", "features": {"price": 9, "kind": "boat"}}])
    assert (answer["new"], answer["changed"]) == (1, 0)
    found = ask(client, history=["i5", "i6"], k=60, exclude_seen=False)
    assert scores(found)["twin"] == pytest.approx(scores(found)["i4"], rel=1e-3)
    assert len(found["items"]) == 33
    shown = {one["item_id"]: one for one in found["items"]}
    assert shown["twin"]["title"] == "red boat"
    assert shown["twin"]["scores"] == {}
    assert set(shown["i4"]["scores"]) == {"click"}
    assert client.get("/v1/items/twin").json()["new"]


def test_a_new_item_is_everywhere(client):
    new = {"item_id": "new", "title": "black boat", "features": {"price": 99, "kind": "boat"}}
    change(client, items=[new])
    assert "new" in ids(ask(client, history=["i4", "i5"], k=5))
    assert ids(ask(client, history=["i4"], filters={"price": {"at_least": 50}})) == ["new"]
    assert "new" in ids(ask(client, history=["i4"], candidates=["new", "i7", "?"]))
    ranked = ask(client, "rank", history=["i4"], items=["new", "i7", "?"], explain=True)
    assert ranked["unknown"] == ["?"]
    assert {one["item_id"]: set(one["scores"]) for one in ranked["items"]} == {
        "new": {"next_item"},
        "i7": {"next_item", "click"},
    }
    weighted = ask(client, history=["i4"], k=60, score={"next_item": 1, "click": 1}, exclude_seen=False)
    assert "new" in ids(weighted)
    assert "new" in ids(ask(client, history=["i4"], k=60, diversity=0.5))
    assert "new" in ids(ask(client, "similar", item_id="i4", k=5))
    assert ids(ask(client, "popular", k=60))[-1] == "new"
    near = ask(client, "similar", item_id="new", k=3)
    assert all(4 <= int(one[1:]) < 8 for one in ids(near))
    assert "similar_item" in refused(client, "similar", 409, item_id="new", by="similar_item")
    assert "new" not in ids(ask(client, history=["i4", "new"], k=60))
    assert "new" in ids(ask(client, history=["i4", "new"], k=60, exclude_seen=False))
    change(client, withdraw=["new"])
    assert "new" not in ids(ask(client, history=["i4"], k=60))
    change(client, restore=["new"])
    change(client, items=[{"item_id": "new", "title": "red cup", "features": {"kind": "cup"}}])
    assert int(ids(ask(client, "similar", item_id="new", k=1))[0][1:]) >= 28
    assert client.get("/v1/items/new").json()["features"] == {"kind": "cup", "price": 99.0}


def test_a_new_item_without_a_text_is_refused(client):
    told = refused(
        client, "items", items=[{"item_id": "i1", "title": "x"}, {"item_id": "bare", "features": {"price": 1}}]
    )
    assert "body.items.1" in told
    assert "title" in told


def test_ids_beside_texts_refuse(texts, serve, tmp_path):
    both = text_run(tmp_path, {"items": {"id": {}, "text": {"directions": 16}}})
    client = TestClient(Gateway(serve(both, tmp_path / "state", k=5)), raise_server_exceptions=False)
    assert "IdEmbedding" in refused(client, "items", 409, items=[{"item_id": "new", "title": "red boat"}])


def test_a_run_that_knows_the_item_takes_the_shop_s_fields(texts, client, serve, tmp_path):
    """The item of a later run is its own again, with what was said of it meanwhile."""
    change(client, items=[{"item_id": "i4", "title": "sold as new", "features": {"price": 50}}])
    found = ask(client, history=["i5"], filters={"price": {"at_least": 50}})
    assert [one["title"] for one in found["items"]] == ["sold as new"]
    assert set(found["items"][0]["scores"]) == {"click"}


def test_a_saved_run_reads_new_texts_as_training_did(texts):
    tower = Run.open(texts.path).network.recommender.items
    table = texts.catalog.table
    with torch.inference_mode():
        assert torch.allclose(tower.of_new(table), tower.table(), atol=1e-4)


@pytest.mark.parametrize("kind", [Exact, Approximate])
@pytest.mark.parametrize("share", [None, 0.9, 0.05])
def test_known_and_new_items_together_are_searched_exactly(kind, share):
    if kind is Approximate:
        pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(1)
    known, new = (torch.randn(size, 8, generator=generator) for size in (500, 40))
    config = Exact.Config() if kind is Exact else Approximate.Config(cells=4, probes=4)
    extended = Extended(make_index(config, Products(known), lambda: known[:16]), new)
    flags = np.random.default_rng(0).random(540) < (share or 1)
    allowed = None if share is None else Allowed.flagged(flags)
    asked = Asked(
        torch.randn(6, 8, generator=generator),
        [np.array([3, 5, 501, 510, FIRST_ITEM + 539]) if row % 2 else np.zeros(0, np.int64) for row in range(6)],
    )
    found = extended.search(asked, 20, allowed)
    wanted = search_exactly(Products(torch.cat([known, new])), asked, 20, allowed)
    assert torch.equal(found.items_BK, wanted.items_BK)
    assert torch.allclose(found.scores_BK, wanted.scores_BK, atol=1e-5)
