import json
import math
import re
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pytest

from raysys.configfile import dump_yaml
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.evaluate import examine
from raysys.evaluation.judge import Judge
from raysys.evaluation.outcomes import Kept, users_of, write_outcomes
from raysys.evaluation.slices import ACTIVITY
from raysys.runs import Run, RunRecord
from raysys.tasks import TASKS
from raysys.tasks.rating import Rating
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.report import run_facts, write_report
from raysys.training.start import build_network

SPLITS = (Split.VALID, Split.TEST)


@pytest.fixture
def make_run(config_of, contract_dataset, tmp_path):
    """Write what training writes into a run directory, of an untrained model."""

    def make(name="one", parent=None, dataset=None, splits=SPLITS, **nodes) -> Run:
        config, dataset = config_of(**nodes), dataset or contract_dataset
        directory = tmp_path / name
        directory.mkdir()
        judge = Judge.of(dataset, config.evaluation, config.model.max_length)
        network, reports = build_network(config, dataset), []
        for split in splits:
            found = examine(judge, network, split)
            users = users_of(found.outcomes)
            path = directory / "outcomes" / f"{found.report.split}.parquet"
            write_outcomes(found.outcomes, judge.reader.user_ids(users), users, path)
            reports.append(found.report)
        (directory / "report.json").write_text(json.dumps([report.to_json() for report in reports]))
        (directory / "config.yaml").write_text(dump_yaml(config.model_dump(mode="json")))
        (directory / "dataset.json").write_text(dataset.manifest.model_dump_json())
        dataset.vocabulary.save(directory / "vocabulary.arrow")
        dataset.catalog.save(directory / "catalog.arrow")
        metrics = {metric: found.mean for metric, found in (reports[0].metrics if reports else {}).items()}
        lines = [{"loss": 3.0 - epoch, "epoch": epoch, "step": epoch, **metrics} for epoch in (1, 2)]
        (directory / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        means = {report.split: {metric: f.mean for metric, f in report.metrics.items()} for report in reports}
        record = RunRecord(
            run_id=name,
            project=config.project,
            created=datetime(2026, 3, 1, tzinfo=UTC),
            seconds=12.3,
            epochs=2,
            best_epoch=1,
            steps=2,
            parent=None if parent is None else str(parent.path),
            dataset=str(dataset.path),
            dataset_version=dataset.manifest.version,
            dataset_fingerprint=dataset.manifest.fingerprint,
            parameters=123456,
            valid=means.get("valid", {}),
            test=means.get("test", {}),
            versions={"raysys": "0.0.0"},
        )
        (directory / "run.json").write_text(record.model_dump_json())
        return Run.open(directory)

    return make


def replace_record(run, **values) -> Run:
    node = json.loads((run.path / "run.json").read_text()) | values
    (run.path / "run.json").write_text(json.dumps(node))
    return Run.open(run.path)


def body(path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[: text.index("<script>")]


def test_a_run_becomes_a_page_beside_its_record(make_run):
    run = make_run()
    path = write_report(run)
    assert path == run.path / "report.html"
    shown = body(path)
    for fact in ("123,456", "2 (epoch 1 kept)", "sasrec: width 16", "next_item, rating", "Trained 2026-03-01 00:00"):
        assert fact in shown, fact
    for metric in ("next_item.ndcg@10", "next_item.recall@10", "rating.rmse"):
        assert f"{run.record.test[metric]:.4f}" in shown, metric
    assert shown.count("<article>") == 12


def drawn(path) -> dict:
    return json.loads(re.search(r'id="facts">(.*?)</script>', path.read_text(encoding="utf-8"))[1])


def heat(path, title: str) -> dict[str, dict[str, str]]:
    text = body(path)
    rows = re.findall("<tr>(.*?)</tr>", text[text.index(f"<h2>{title}</h2>") :].partition("</section>")[0])
    header, *rows = ([re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?</t[hd]>", row)] for row in rows)
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_the_page_shows_how_tasks_weighed_conflicted_and_mixed_experts(make_run, contract_dataset):
    nodes = {"tasks": {"next_item": {}, "rating": {}, "click": {}}, "weighting": {"kind": "gradnorm"}}
    model = {"width": 16, "max_length": 12, "backbone": {"num_blocks": 1}, "sharing": {"kind": "mmoe"}}
    run = make_run(**nodes, model=model)
    (run.path / "history.jsonl").unlink()
    TrainingLoop(run.config, contract_dataset, build_network(run.config, contract_dataset), run.path, show=False).run()
    history, path = read_history(run.path), write_report(run)
    found = drawn(path)
    assert {one["name"]: one["values"] for one in found["lines-weights"]["series"]} == {
        task: [line[f"weight/{task}"] for line in history] for task in run.config.tasks
    }
    for name in ("next_item|rating", "next_item|click", "rating|click"):
        (one,) = (one for one in found["lines-cosines"]["series"] if one["name"] == name.replace("|", " and "))
        assert one["values"] == [line[f"cosine/{name}"] for line in history]
        first, _, second = name.partition("|")
        cosines = heat(path, "Task conflict")
        assert cosines[first][second] == cosines[second][first]
        assert float(cosines[first][second].replace("−", "-")) == pytest.approx(one["values"][-1], abs=0.00501)
    (test,) = (node for node in run.reports if node["split"] == "test")
    assert heat(path, "Gates") == {
        task: {expert: f"{100 * share:.1f} %" for expert, share in shares.items()}
        for task, shares in test["gates"].items()
    }
    assert all(sum(shares.values()) == pytest.approx(1, abs=1e-6) for shares in test["gates"].values())


def test_a_run_of_one_task_shows_no_sharing(make_run):
    run = make_run(tasks={"rating": {}}, model={"width": 16, "backbone": {"num_blocks": 1}, "sharing": {"kind": "ple"}})
    path = write_report(run)
    assert not [name for name in drawn(path) if name.startswith("lines")]
    assert set(run.reports[0]["gates"]["rating"]) == {"shared 1", "shared 2", "own 1"}


def test_the_slices_of_popularity_are_of_the_same_users(make_run):
    facts = run_facts(make_run(tasks={"next_item": {}}))
    own = facts.reports[0].slices
    assert facts.reports[0].split == "test"
    assert own
    assert {name: part["next_item.ndcg@10"].count for name, part in own.items()} == {
        name: part["next_item.ndcg@10"].count for name, part in facts.popular_slices.items()
    }
    of_users = [part["next_item.ndcg@10"] for name, part in facts.popular_slices.items() if name.startswith("history")]
    assert len(of_users) <= len(ACTIVITY)
    mean = sum(part.mean * part.count for part in of_users) / sum(part.count for part in of_users)
    assert mean == pytest.approx(facts.reports[0].baselines["popularity"]["next_item.ndcg@10"].mean, abs=1e-9)


def test_examples_tell_what_the_shards_say(make_run, contract_dataset):
    run = make_run(tasks={"next_item": {}})
    found, reader = run_facts(run).examples, ShardReader(contract_dataset)
    ids = reader.user_ids(np.arange(contract_dataset.manifest.num_users)).to_pylist()
    decode = contract_dataset.vocabulary.item_ids
    kept = Kept.read(run.path, "test")
    lists = dict(zip(kept.table["user_id"].to_pylist(), kept.lists(), strict=True))
    assert len(found.chosen) == len({example.user_id for example in found.chosen}) == 12
    for example in found.chosen:
        rows = reader.rows(np.array([ids.index(example.user_id)]))
        named = [decode[int(item) - 2].as_py() if item > 1 else None for item in rows.items]
        had = [item for item, mark in zip(named, rows.marks, strict=True) if mark < Split.TEST]
        held_out = [item for item, mark in zip(named, rows.marks, strict=True) if mark == Split.TEST]
        ranked = [decode[int(item) - 2].as_py() for item in lists[example.user_id]]
        assert [item.item_id for item in example.history] == had[-8:]
        assert example.num_earlier == max(len(had) - 8, 0)
        assert [(one.item.item_id, one.place, one.had_before) for one in example.held_out] == [
            (item, ranked.index(item) + 1 if item in ranked else 0, item in had) for item in dict.fromkeys(held_out)
        ]
        assert [item.item_id for item in example.ranked] == ranked[:10]
        assert example.found == {one.place for one in example.held_out if one.place}
        assert example.kind == ("hit" if example.found else "miss")


def test_examples_are_the_same_again(make_run):
    run = make_run()
    assert run_facts(run).examples == run_facts(Run.open(run.path)).examples


def test_a_dataset_that_is_gone_or_changed_costs_only_what_needs_it(make_run, tmp_path):
    run = make_run()
    gone = body(write_report(replace_record(run, dataset=str(tmp_path / "nowhere"))))
    assert f"There are no examples: the dataset {tmp_path / 'nowhere'} is not there any more." in gone
    assert "plot-slices-history" in gone
    changed = replace_record(run, dataset=run.config.dataset, dataset_fingerprint="0" * 64)
    assert "has changed since the run" in body(write_report(changed))


def test_a_run_without_outcomes_says_so(make_run):
    run = make_run()
    (run.path / "outcomes" / "test.parquet").unlink()
    assert "There are no examples: " in body(write_report(run))


def test_a_parent_on_the_same_dataset_stands_beside(make_run):
    parent = make_run("parent", tasks={"next_item": {}}, seed=5)
    run = make_run("child", parent=parent)
    shown = body(write_report(run))
    assert "<dt>parent</dt><dd>parent</dd>" in shown
    assert "parent run</th>" in shown
    assert f"{parent.record.test['next_item.ndcg@10']:.4f}" in shown
    elsewhere = replace_record(parent, dataset_fingerprint="0" * 64)
    assert "parent run</th>" not in body(write_report(run)), elsewhere
    (parent.path / "run.json").unlink()
    assert "<dd>parent (gone)</dd>" in body(write_report(run))


def test_a_run_without_a_retrieval_task_has_labels_alone(make_run):
    run = make_run(tasks={"rating": {"dropout": 0.0}})
    shown = body(write_report(run))
    assert "RMSE on test" in shown
    assert "that of training mean" in shown
    assert "There are no examples: nobody has a list" in shown
    assert "plot-slices" not in shown


class Liked(Rating):
    """The probability that a rating is 4 or more, untrained."""

    predicts = "probability"

    class Config(Rating.Config):
        kind: Literal["liked"] = "liked"

    def predict(self, logits):
        return logits.sigmoid()


def test_probabilities_have_a_reliability_plot(make_run, monkeypatch):
    monkeypatch.setitem(TASKS, "liked", Liked)
    run = make_run(tasks={"rating": {}, "liked": {}})
    facts = run_facts(run)
    assert set(facts.reliabilities) == {"liked"}
    shown = facts.reliabilities["liked"]["as predicted"]
    assert shown.error == pytest.approx(run.record.test["liked.ece"], abs=1e-6)
    assert "<h2>Calibration of liked</h2>" in body(write_report(run))
    (run.path / "outcomes" / "test.parquet").unlink()
    assert run_facts(run).reliabilities == {}


def test_a_run_without_users_to_evaluate_makes_a_page(make_run):
    shown = body(write_report(make_run(splits=())))
    assert "No user has events to evaluate." in shown
    assert "plot-curve-0" in shown


def test_validation_comes_first_where_nothing_else_was_evaluated(make_run):
    shown = body(write_report(make_run(splits=(Split.VALID,))))
    assert "NDCG@10 on valid" in shown
    assert shown.count("<article>") == 12


def test_metrics_that_are_not_numbers_are_told_as_such(make_run):
    run = make_run()
    nodes = json.loads((run.path / "report.json").read_text())
    for node in nodes:
        for found in (*node["metrics"].values(), *(f for part in node["slices"].values() for f in part.values())):
            found.update(mean=math.nan, low=math.nan, high=math.nan)
    (run.path / "report.json").write_text(json.dumps(nodes))
    with (run.path / "history.jsonl").open("a") as file:
        file.write(json.dumps({"loss": math.nan, "epoch": 3, "next_item.ndcg@10": math.nan}) + "\n")
    shown = body(write_report(run))
    assert "<b>–</b>" in shown
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', shown)[1])  # NaN is no JSON: a browser would refuse it
    assert "NaN" not in json.dumps(facts)
    assert facts["curve-0"]["values"] == [2.0, 1.0, None]


def test_a_report_of_another_raysys_is_told(make_run):
    run = make_run()
    (run.path / "report.json").write_text(json.dumps([{"split": "test", "popularity": {}}]))
    with pytest.raises(UserError, match="not as this raysys writes it"):
        write_report(run)
