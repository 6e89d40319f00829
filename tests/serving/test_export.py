"""Exports of runs: every kind for every backbone answers as the run does, or says why it cannot."""

import json
import shutil

import numpy as np
import pytest
import torch
from exporting import asked, scores, trained, visitors
from safetensors import safe_open
from starlette.testclient import TestClient

import raysys
from raysys.contracts.conftest import contract_dataset  # noqa: F401
from raysys.data.dataset import Dataset
from raysys.data.profile import profile
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, UNKNOWN, Split
from raysys.errors import UserError
from raysys.evaluation.pair_scores import task_scores
from raysys.evaluation.ranking import ModelScorer, recommend
from raysys.model.backbones import BACKBONES
from raysys.runs import Run
from raysys.training.start import resolve
from serving.export import KINDS
from serving.export.making import export
from serving.http.gateway import Gateway

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]  # a compiler on a busy machine takes minutes

PER_USER = [kind for kind, part in BACKBONES.items() if part.per_user]
REFUSED = {
    **{(program, kind): "looks users up" for program in ("compiled", "onnx") for kind in PER_USER},
    ("pruned", "lightgcn"): "from those of others",
    ("compiled", "gru"): "for one length only",
    ("onnx", "hstu"): "ONNX has nothing for its aten.view",
}
TOLERANCES = {"bf16": 0.02, "int8": 0.06, "compiled": 1e-4, "onnx": 1e-4}
"""Of scores, in the standard deviation of all scores."""
KEPT = 25


@pytest.fixture(scope="module")
def runs(contract_dataset, tmp_path_factory):  # noqa: F811
    """Give the run of a backbone, trained when it is first asked for."""
    made, folder = {}, tmp_path_factory.mktemp("runs")

    def of(kind):
        if kind not in made:
            made[kind] = trained(contract_dataset, folder, kind)
        return made[kind]

    return of


@pytest.fixture
def questions(contract_dataset):  # noqa: F811
    """Ask for one user of the dataset, and for many with histories of all lengths."""
    reader = ShardReader(contract_dataset, columns=True)
    return [asked(reader, np.arange(count)) for count in (1, 32)]


def cases():
    for kind in ("bf16", "int8", "compiled", "onnx"):
        for backbone in BACKBONES:
            minutes = kind == "compiled" and backbone != "sasrec" and (kind, backbone) not in REFUSED
            yield pytest.param(kind, backbone, marks=[pytest.mark.slow] if minutes else [])


@pytest.mark.parametrize(("kind", "backbone"), list(cases()))
def test_an_export_answers_as_its_run(backbone, kind, runs, questions, tmp_path):
    run = runs(backbone)
    if (kind, backbone) in REFUSED:
        with pytest.raises(UserError, match=f"{kind}: the backbone {backbone} .*{REFUSED[kind, backbone]}"):
            export(run, [kind], {}, tmp_path)
        assert not list(tmp_path.iterdir())
        return
    made = export(run, [kind], {}, tmp_path).runs[kind]
    assert made.record.exported.kinds == (kind,)
    for queries in questions:
        before, after = scores(run, queries), scores(made, queries)
        assert float((before - after).abs().max()) < TOLERANCES[kind] * float(before.std())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_pruned_run_scores_what_is_left_as_before(backbone, runs, tmp_path):
    run = runs(backbone)
    if ("pruned", backbone) in REFUSED:
        with pytest.raises(UserError, match=f"pruned: the backbone {backbone} .*{REFUSED['pruned', backbone]}"):
            export(run, ["pruned"], {"max_items": KEPT}, tmp_path)
        return
    made = export(run, ["pruned"], {"max_items": KEPT}, tmp_path).runs["pruned"]
    ids = made.vocabulary.item_ids.to_pylist()
    assert made.vocabulary.num_items == KEPT
    counts = dict(zip(run.vocabulary.item_ids.to_pylist(), run.catalog.popularity[FIRST_ITEM:], strict=True))
    assert min(counts[item] for item in ids) >= sorted(counts.values())[-KEPT]
    histories = [ids[:1], ids[3:9], ids[::-1][:12]]
    cut = next(item for item in run.vocabulary.item_ids.to_pylist() if item not in ids)
    before = scores(run, visitors(run, histories))[:, run.vocabulary.lookup(ids) - FIRST_ITEM]
    assert torch.allclose(before, scores(made, visitors(made, histories)), atol=1e-5)
    assert torch.allclose(before, scores(made, visitors(made, [[cut, *one] for one in histories])), atol=1e-5)


def test_kinds_join_and_take_fewer_bytes(runs, tmp_path):
    run = runs("sasrec")
    settings = {"max_items": KEPT}
    found = export(run, ["bf16", "int8", "onnx+pruned+int8"], settings, tmp_path)
    assert found.runs["pruned+int8+onnx"].record.run_id == "sasrec-pruned-int8-onnx"
    assert found.runs["int8"].record.exported.settings == {}
    assert found.runs["pruned+int8+onnx"].record.exported.settings == settings
    sizes = {name: one.figures["model_bytes"] for name, one in found.measured.items()}
    assert sizes["original"] == (run.path / "model.safetensors").stat().st_size
    assert sizes["bf16"] < 0.65 * sizes["original"]
    assert sizes["int8"] < sizes["bf16"]  # of weights this small, names and shapes are most
    with safe_open(found.runs["pruned+int8+onnx"].path / "model.safetensors", "pt") as weights:
        assert not [name for name in weights.keys() if name.startswith("recommender.backbone.")]  # noqa: SIM118
        table = weights.get_tensor("recommender.items.encoders.id.embedding.weight")
    assert table.dtype == torch.int8
    assert len(table) == KEPT + FIRST_ITEM


def test_what_is_measured_is_what_an_evaluation_says(runs, tmp_path):
    run = runs("sasrec")
    found = export(run, ["pruned"], {"max_items": KEPT}, tmp_path)
    for name, one in {"original": run, **found.runs}.items():
        again = raysys.evaluate(one)[-1]
        assert again.split == "test"
        figures = found.measured[name].figures
        assert again.metrics["next_item.ndcg@10"].mean == pytest.approx(figures["next_item.ndcg@10"])
        assert 0 < figures["p50_ms_1"] <= figures["p99_ms_1"]
        assert figures["p50_ms_1"] < figures["p50_ms_32"]
    kept = json.loads((tmp_path / "sasrec-pruned" / "export.json").read_text())
    assert kept["measured"]["export"] == dict(found.measured["pruned"].figures)
    assert kept["of"] == str(run.path)


def test_a_view_hides_what_was_cut_and_nothing_else(runs, contract_dataset, tmp_path):  # noqa: F811
    made = export(runs("gru"), ["pruned"], {"min_events": 40}, tmp_path).runs["pruned"]
    moved = Run.open(shutil.move(made.path, tmp_path / "elsewhere"))
    view = Dataset.open(moved.record.dataset)
    assert view.manifest.fingerprint == moved.record.dataset_fingerprint != contract_dataset.manifest.fingerprint
    everybody = np.arange(contract_dataset.manifest.num_users)
    before, after = (ShardReader(one, columns=True).rows(everybody) for one in (contract_dataset, view))
    ids = [[None, None, *one.vocabulary.item_ids.to_pylist()] for one in (contract_dataset, view)]
    for old, new in zip(before.items, after.items, strict=True):
        assert ids[1][new] == ids[0][old] if new != UNKNOWN else ids[0][old] not in ids[1]
    assert (after.items == UNKNOWN).any()
    assert (before.marks == after.marks).all()
    with pytest.raises(UserError, match="a view of"):
        profile(view)
    manifest = json.loads((moved.path / "manifest.json").read_text())
    manifest["view"]["fingerprint"] = "another"
    (moved.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="was rewritten since"):
        Dataset.open(moved.path)


@pytest.mark.parametrize("kinds", ["bf16", "pruned+int8", "pruned+onnx"])
def test_text_items_fields_and_pair_tasks_are_exported(kinds, contract_dataset, tmp_path):  # noqa: F811
    model = {
        "items": {"id": {}, "text": {"directions": 16}},
        "tokens": {"events": True},
        "sharing": {"kind": "mmoe"},
        "fields": {"target_encoding": {}, "totals": True},
    }
    run = trained(contract_dataset, tmp_path, "sasrec", model, {"click": {}, "rating": {}})
    made = export(run, [kinds], {"max_items": KEPT} if "pruned" in kinds else {}).runs[kinds]
    histories = [made.vocabulary.item_ids.to_pylist()[:7], made.vocabulary.item_ids.to_pylist()[4:6]]
    queries = [visitors(one, histories) for one in (made, run)]
    candidates = recommend(ModelScorer(made.network), queries[0], 5)
    ids = made.vocabulary.decode(candidates.items_BK.numpy()).to_pylist()
    same = torch.from_numpy(run.vocabulary.lookup(ids)).long().view(candidates.items_BK.shape)
    with torch.inference_mode():
        after = _task_scores(made, queries[0], candidates.items_BK)
        before = _task_scores(run, queries[1], same)
    assert set(after) == {"click", "rating"}
    for name, predicted in after.items():
        assert torch.allclose(predicted, before[name], atol=0.05 if "onnx" not in kinds else 1e-4)
    assert set(made.record.test) >= {"next_item.ndcg@10", "click.auc", "rating.rmse"}


def _task_scores(run, queries, items_BK):
    encoded = run.network.recommender(queries.history)
    return task_scores(run.network, encoded, queries.anchor_B, items_BK, run.calibrators)


@pytest.mark.parametrize("kind", ["int8", "pruned", "onnx"])
def test_an_export_is_served(kind, runs, serve, contract_dataset, tmp_path):  # noqa: F811
    settings = {"max_items": KEPT} if kind == "pruned" else {}
    made = export(runs("ligr"), [kind], settings, tmp_path).runs[kind]
    client = TestClient(Gateway(serve(made, tmp_path)))
    assert client.get("/healthz").json()["items"] == made.vocabulary.num_items
    user = ShardReader(contract_dataset).user_ids(np.array([3])).to_pylist()[0]
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 5}).json()
    assert (answer["run_id"], answer["source"]) == (f"ligr-{kind}", "user")
    queries = asked(ShardReader(Dataset.open(made.record.dataset)), np.array([3]), Split.NONE)
    found = recommend(ModelScorer(made.network), queries, 5).items_BK.numpy()
    assert [item["item_id"] for item in answer["items"]] == made.vocabulary.decode(found).to_pylist()


def test_compiled_code_is_for_what_it_was_compiled_for(runs, tmp_path):
    made = export(runs("sasrec"), ["compiled"], {}, tmp_path).runs["compiled"]
    assert not [name for name in made.network.state_dict() if name.startswith("recommender.backbone.")]
    other = made.record.exported.model_copy(update={"made_with": {"torch": "1.0", "cpu": "Z80"}})
    run = Run(made.path, made.record.model_copy(update={"exported": other}))
    with pytest.raises(UserError, match=r"compiled by torch 1\.0 on Z80"):
        _ = run.network


@pytest.mark.parametrize(
    ("wanted", "settings", "words"),
    [
        (["int4"], {}, ["no kind 'int4'", "did you mean 'int8'"]),
        (["bf16+int8"], {}, ["bf16+int8", "at most one of"]),
        (["pruned"], {}, ["--min-events"]),
        (["bf16"], {"max_items": 3}, ["--max-items", "without effect"]),
        (["pruned"], {"min_events": 10**6}, ["min_events 1000000", "keeps none of"]),
        (["pruned"], {"max_items": 10**6}, ["keeps all of"]),
        (["bf16", "compiled+onnx"], {}, ["compiled+onnx"]),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_left(wanted, settings, words, runs, tmp_path):
    with pytest.raises(UserError) as caught:
        export(runs("sasrec"), wanted, settings, tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_export_is_neither_exported_nor_trained_on(runs, tmp_path):
    run = runs("sasrec")
    made = export(run, ["bf16"], {}, tmp_path).runs["bf16"]
    with pytest.raises(UserError, match="an export already"):
        export(made, ["int8"], {}, tmp_path)
    with pytest.raises(UserError, match="exists and is not empty"):
        export(run, ["bf16"], {}, tmp_path)
    assert Run.open(made.path).record.exported is not None
    with pytest.raises(UserError, match=f"start_from: sasrec-bf16 is an export.*{run.path}"):
        resolve(run.config.model_copy(update={"start_from": str(made.path)}))


def test_the_command_makes_what_works_and_says_what_does_not(runs, command, tmp_path):
    run = runs("mf")
    code, out, err = command("export", run.path, "-o", tmp_path, "--max-items", KEPT, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["exports"]) == {"pruned", "bf16", "int8"}
    assert set(found["refused"]) == set(KINDS) - set(found["exports"])
    assert found["metric"] == "next_item.ndcg@10"
    code, out, err = command("runs", "compare", run.path, tmp_path / "mf-pruned", "--json")
    assert code == 0, err
    difference = next(one for one in json.loads(out)["differences"] if one["metric"] == "next_item.ndcg@10")
    figures = [part["next_item.ndcg@10"] for part in (found["original"], found["exports"]["pruned"])]
    assert difference["difference"] == pytest.approx(figures[1] - figures[0], abs=1e-6)
    for verb in (("runs", "show"), ("runs", "report"), ("evaluate",)):
        code, out, err = command(*verb, tmp_path / "mf-pruned")
        assert code == 0, err
    code, out, err = command("export", run.path, "-o", tmp_path / "other", "--kind", "onnx")
    assert code == 2
    assert "onnx: the backbone mf cannot be exported" in err
