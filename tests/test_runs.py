import json
import multiprocessing
from datetime import UTC, datetime

import pytest

from raysys import runs
from raysys.errors import UserError


def _make_run(root, run_id, project="shop"):
    path = root / "runs" / project / run_id
    path.mkdir(parents=True)
    record = runs.RunRecord(
        run_id=run_id,
        project=project,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=1.0,
        epochs=1,
        best_epoch=1,
        steps=1,
        parent=None,
        dataset="d",
        dataset_version="v0001",
        dataset_fingerprint="f",
        parameters=1,
        valid={},
        test={"next_item.ndcg@10": 0.5},
        versions={},
    )
    (path / runs.RECORD).write_text(record.model_dump_json())
    return runs.Run.open(path)


def test_a_run_is_found_by_directory_id_and_alias(tmp_path):
    run = _make_run(tmp_path, "20260101-000000")
    runs.promote(run, str(tmp_path))
    for name in (run.path, "20260101-000000", "shop@champion"):
        assert runs.find_run(name, str(tmp_path)).path == run.path


def test_an_alias_follows_promotions_and_goes_back(tmp_path):
    first, second = _make_run(tmp_path, "a"), _make_run(tmp_path, "b")
    runs.promote(first, str(tmp_path))
    runs.promote(second, str(tmp_path))
    assert runs.aliases(str(tmp_path), "shop") == {"champion": "b"}
    assert runs.rollback(str(tmp_path), "shop") == "a"
    assert runs.find_run("shop@champion", str(tmp_path)).record.run_id == "a"
    history = (tmp_path / "aliases" / "shop.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in history] == ["a", "b", "a"], "records are only ever appended"


def test_a_run_written_elsewhere_is_promoted_by_its_path(tmp_path):
    elsewhere = _make_run(tmp_path / "elsewhere", "x")
    runs.promote(elsewhere, str(tmp_path / "store"))
    assert runs.find_run("shop@champion", str(tmp_path / "store")).path == elsewhere.path


def test_an_unfinished_run_is_no_run(tmp_path):
    path = tmp_path / "runs" / "shop" / "x"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("project: shop\n")
    assert runs.list_runs(str(tmp_path)) == []
    with pytest.raises(UserError, match="--resume"):
        runs.find_run(path, str(tmp_path))


def test_a_wrong_name_lists_what_there_is(tmp_path):
    _make_run(tmp_path, "20260101-000000")
    with pytest.raises(UserError, match="20260101-000000"):
        runs.find_run("20260101-00000", str(tmp_path))
    with pytest.raises(UserError, match="promote"):
        runs.find_run("shop@champion", str(tmp_path))


def test_a_broken_record_is_named(tmp_path):
    run = _make_run(tmp_path, "a")
    (run.path / runs.RECORD).write_text("{}")
    with pytest.raises(UserError, match=r"run\.json"):
        runs.Run.open(run.path)


def _promote_many(root, run_id):
    run = runs.Run.open(f"{root}/runs/shop/{run_id}")
    for _ in range(20):
        runs.promote(run, root)


def test_promotions_of_several_processes_are_all_kept(tmp_path):
    for name in ("a", "b", "c"):
        _make_run(tmp_path, name)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_promote_many, args=(str(tmp_path), name)) for name in ("a", "b", "c")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = (tmp_path / "aliases" / "shop.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["run"] for line in lines) == ["a"] * 20 + ["b"] * 20 + ["c"] * 20


def test_new_run_directories_never_collide(tmp_path):
    paths = {runs.new_directory(str(tmp_path), "runs", "shop") for _ in range(5)}
    assert len(paths) == 5


def test_an_output_that_is_taken_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        runs.new_directory(str(tmp_path), "runs", "shop", str(tmp_path))


@pytest.mark.cluster
def test_a_run_recommends_from_a_history(tiny_run):
    history = tiny_run.vocabulary.item_ids.to_pylist()[:5]
    found = tiny_run.recommend(history=history, k=7)
    assert len(found) == 7
    assert not {item.item_id for item in found} & set(history)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert found[0].title.startswith("Item ")
    assert tiny_run.recommend(history=[*history, "never-seen"], k=7) == found
    assert len(tiny_run.recommend(history=[], k=3)) == 3
    assert len(tiny_run.recommend(history=[], k=10**6)) == tiny_run.manifest.num_items
    with pytest.raises(UserError, match="at least one"):
        tiny_run.recommend(history=history, k=0)
