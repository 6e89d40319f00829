"""Items that training never saw, at once among all others: their vectors are those that their texts would have had."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient
from test_answers import ask, ids, refused
from test_answers import change_items as change

import raysys
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.schema import FIRST_ITEM, UNKNOWN
from raysys.runs import Run
from serving.export.making import export
from serving.http.gateway import Gateway
from serving.index import Allowed, Asked, Extended, Products, make_index, search_exactly
from serving.index.approximate import Approximate
from serving.index.exact import Exact

pytestmark = pytest.mark.thorough
STATISTICS = {"fields": {"target_encoding": {}, "totals": True}}
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
    return text_run(tmp_path_factory.mktemp("texts"), {"items": {"text": {"directions": 16}}, **STATISTICS})


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run that knows items by their ids too, and a task that embeds them for itself."""
    items = {"id": {}, "text": {"directions": 16}}
    return text_run(tmp_path_factory.mktemp("both"), {"items": items, "sharing": {"kind": "stem"}})


@pytest.fixture
def asking(serve, tmp_path):
    """A function that serves a run."""
    return lambda run: TestClient(
        Gateway(serve(run, tmp_path / f"state-{run.path.name}", k=5, k_max=60)), raise_server_exceptions=False
    )


@pytest.fixture
def client(texts, asking):
    return asking(texts)


TWIN = {"item_id": "twin", "title": "red boat", "features": {"kind": "boat", "price": 1}}
"""All that is known of i4, under another name."""


def shown(client, **body):
    return {one["item_id"]: one for one in ask(client, history=["i5", "i6"], k=60, exclude_seen=False, **body)["items"]}


def without_own_rows(run, item_id, path):
    """Return a copy of a run that knows no more of an item than of an unknown one, but its text and features."""
    shutil.copytree(run.path, path)
    weights = load_file(path / "model.safetensors")
    (place,) = run.vocabulary.lookup([item_id])
    own = ("item_id.weight", "item_level.weight", "encoding.known_0", "encoders.id.embedding.weight")
    tables = [name for name in weights if name.endswith(own)]
    for name in tables:
        weights[name][place] = 0 if name.endswith("embedding.weight") else weights[name][UNKNOWN]
    save_file(weights, path / "model.safetensors")
    return Run.open(path), len(tables)


def scores(answer):
    return {one["item_id"]: one["score"] for one in answer["items"]}


def test_a_new_item_with_a_known_text_scores_like_the_known_one(client):
    """The whole way of a text, from the sentence encoder through whitening and projection, is that of training."""
    answer = change(client, items=[{**TWIN, "features": {"price": 9, "kind": "boat"}}])
    assert (answer["new"], answer["changed"]) == (1, 0)
    found = ask(client, history=["i5", "i6"], k=60, exclude_seen=False)
    assert scores(found)["twin"] == pytest.approx(scores(found)["i4"], rel=1e-3)
    assert len(found["items"]) == 33
    listed = shown(client)
    assert listed["twin"]["title"] == "red boat"
    assert set(listed["twin"]["scores"]) == set(listed["i4"]["scores"]) == {"click"}
    assert client.get("/v1/items/twin").json()["new"]


@pytest.mark.parametrize(("kind", "tables"), [("texts", 3), ("both", 4)])
def test_tasks_predict_of_a_new_item_what_they_would_of_a_known_one_without_its_own_rows(
    kind, tables, asking, request, tmp_path
):
    """Its features are read as the catalog's were; means of its own labels are not there."""
    run = request.getfixturevalue(kind)
    bare, num_tables = without_own_rows(run, "i4", tmp_path / "bare")
    assert num_tables == tables
    client = asking(run)
    before = shown(client)
    change(client, items=[TWIN])
    new, expected = shown(client), shown(asking(bare))["i4"]
    assert new["twin"]["score"] == pytest.approx(expected["score"], rel=1e-3)
    assert new["twin"]["scores"]["click"] == pytest.approx(expected["scores"]["click"], rel=1e-3)
    assert new["twin"]["scores"]["click"] != pytest.approx(before["i4"]["scores"]["click"], rel=1e-3)
    assert {name: one["scores"] for name, one in new.items() if name != "twin"} == {
        name: pytest.approx(one["scores"], rel=1e-5) for name, one in before.items()
    }
    weighted = shown(client, score={"click": 1})
    assert weighted["twin"]["score"] == pytest.approx(expected["scores"]["click"], rel=1e-3)
    change(client, items=[{"item_id": "twin", "features": {"kind": "never seen", "price": None}}])
    assert shown(client)["twin"]["scores"]["click"] != pytest.approx(expected["scores"]["click"], rel=1e-4)


def test_a_new_item_is_everywhere(client):
    new = {"item_id": "new", "title": "black boat", "features": {"price": 99, "kind": "boat"}}
    change(client, items=[new])
    assert "new" in ids(ask(client, history=["i4", "i5"], k=5))
    assert ids(ask(client, history=["i4"], filters={"price": {"at_least": 50}})) == ["new"]
    assert "new" in ids(ask(client, history=["i4"], candidates=["new", "i7", "?"]))
    ranked = ask(client, "rank", history=["i4"], items=["new", "i7", "?"], explain=True)
    assert ranked["unknown"] == ["?"]
    assert {one["item_id"]: set(one["scores"]) for one in ranked["items"]} == {
        "new": {"next_item", "click"},
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


def test_what_is_written_of_a_new_item_stands_for_it_where_ids_are_known_too(asking, both):
    client = asking(both)
    assert change(client, items=[TWIN, {"item_id": "new", "title": "black boat"}])["new"] == 2
    assert "new" in ids(ask(client, history=["i4", "i5"], k=6))
    tower, live = both.network.recommender.items, client.app.service.items.live
    i4 = both.vocabulary.lookup(["i4"]).astype(np.int64)
    with torch.inference_mode():
        text = tower.encoders["text"](torch.from_numpy(i4))[0]
    assert torch.allclose(live.new.vectors_ND[live.new_ids.index("twin")], text, atol=1e-4)


@pytest.mark.parametrize("kind", ["bf16", "int8", "onnx", "pruned"])
def test_exports_answer_for_new_items_as_their_run_does(kind, both, asking, tmp_path):
    made = export(both, [kind], {"max_items": 24} if kind == "pruned" else {}, tmp_path / "made").runs[kind]
    (cut, *_) = [
        one for one in both.vocabulary.item_ids.to_pylist() if one not in made.vocabulary.item_ids.to_pylist()
    ] or [None]
    found = []
    for run in (both, made):
        client = asking(run)
        change(client, items=[TWIN])
        found.append(shown(client))
        if cut is not None and run is made:
            told = change(client, items=[{"item_id": cut, "title": "red boat", "features": TWIN["features"]}])
            assert told["new"] == 1, "what was cut is new again"
    spread = np.std([one["score"] for one in found[0].values()])
    assert found[1]["twin"]["score"] == pytest.approx(found[0]["twin"]["score"], abs=0.06 * spread)
    assert found[1]["twin"]["scores"] == pytest.approx(found[0]["twin"]["scores"], abs=0.01)
    cut = {*both.vocabulary.item_ids.to_pylist()} - {*made.vocabulary.item_ids.to_pylist()}
    if cut:
        assert change(client, items=[{**TWIN, "item_id": min(cut)}])["new"] == 1, "what was cut is new"


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
