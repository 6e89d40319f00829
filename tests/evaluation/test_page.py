import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.catalog import Catalog
from raysys.data.schema import FIRST_ITEM, Split
from raysys.data.vocabulary import Vocabulary
from raysys.evaluation.examples import Example, Examples, HeldOut, Item, choose, find_examples
from raysys.evaluation.outcomes import Kept
from raysys.evaluation.page import RunFacts, page
from raysys.evaluation.page_reliability import reliabilities
from raysys.evaluation.page_tables import first_beside, headlines, pretty, report_tables
from raysys.evaluation.pointwise import Predictions
from raysys.evaluation.protocol import Estimate, EvalReport

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\"'&"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e&quot;&#x27;&amp;"


def estimate(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.01, mean + 0.01, 50)


def report(split: str = "test", task: str = "next_item", **more) -> EvalReport:
    metrics = {f"{task}.ndcg@5": estimate(0.2), f"{task}.ndcg@10": estimate(0.3), f"{task}.recall@10": estimate(0.4)}
    beside = {name: estimate(found.mean / 3) for name, found in metrics.items()}
    slices = {"history 0": {f"{task}.ndcg@10": estimate(0.1)}, "item tail": {f"{task}.ndcg@10": estimate(0.2)}}
    made = EvalReport(split, "full ranking", metrics, {"popularity": beside}, slices, 50, 80)
    return replace(made, **more)


def example(text: str = "a", kind: str = "hit") -> Example:
    item = Item(text, text)
    return Example(text, kind, (item,), 3, (HeldOut(item, 2, True),), (Item("b", None), item), frozenset({2}))


def facts(**more) -> RunFacts:
    made = RunFacts(
        project="shop",
        run_id="20260301",
        created=datetime(2026, 3, 1, tzinfo=UTC),
        facts={"tasks": "next_item"},
        place="store/runs/shop/20260301",
        config="project: shop\nseed: 0\n",
        confidence=0.95,
        best_epoch=2,
        history=[{"loss": 2.0, "epoch": 1}, {"loss": 1.0, "epoch": 2, "next_item.ndcg@10": 0.3}],
        monitor=None,
        reports=[report("valid"), report()],
        parent_reports=[],
        popular_slices={"history 0": {"next_item.ndcg@10": estimate(0.05)}},
        reliabilities={},
        examples=Examples((example(),), "test", {"hit": 1.0, "near miss": 0.0, "miss": 0.0}, 1, 50, 20),
    )
    return replace(made, **more)


def figures(text: str) -> dict:
    return json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])


def body(text: str) -> str:
    return text[: text.index("<script>")]


def test_the_page_shows_hostile_text_and_runs_none_of_it():
    node = report(task=HOSTILE, notes=(HOSTILE,))
    node = replace(node, baselines={HOSTILE: node.baselines["popularity"]})
    text = page(
        facts(
            facts={HOSTILE: HOSTILE},
            place=HOSTILE,
            config=f"a: {HOSTILE}\nb: 1",
            history=[{"loss": 1.0, f"loss/{HOSTILE}": 1.0, "loss/x": 2.0, f"{HOSTILE}.ndcg@10": 0.1, "epoch": 1}],
            reports=[node],
            parent_reports=[node],
            popular_slices=node.slices,
            examples=Examples((example(HOSTILE),), "test", {"hit": 1.0}, 1, 1, 20),
        )
    )
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("<script") == text.count("</script>") == 3
    assert body(text).count(ESCAPED) >= 12  # facts 2, foot, config, tables 3, notes, user, items 4
    assert f'title="{ESCAPED}"' in text
    assert "a: &lt;script&gt;" in text
    assert "\nb: 1</code>" in text
    assert figures(text)["curve-1"]["name"] == f"training loss of {ESCAPED}"  # plotly reads some HTML in its texts


def test_only_its_own_scripts_may_run_and_it_asks_the_network_for_nothing():
    text = page(facts())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = [base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() for own in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == allowed
    assert len(allowed) == 2
    for word in (" src=", "href=", "url(", "@import"):
        assert word not in body(text)


def test_test_comes_before_validation_and_headlines_are_of_test():
    valid = report("valid", metrics={"next_item.ndcg@10": estimate(0.7)})
    text = body(page(facts(reports=[valid, report()])))
    assert text.index("<h2>Test</h2>") < text.index("<h2>Validation</h2>")
    tiles = text[text.index('class="tiles"') : text.index('class="cards"')]
    assert "NDCG@10 on test, 95 % interval 0.2900 to 0.3100" in tiles
    assert "<b>3.00 ×</b><span>that of popularity, 0.1000</span>" in tiles
    assert "0.7000" not in tiles
    assert "50 of 80 users" in text


def test_headlines_fall_back_on_what_there_is():
    assert headlines(report()) == ["next_item.ndcg@10", "next_item.recall@10"]
    deep = {"t.ndcg@3": estimate(0.1), "t.ndcg@7": estimate(0.2), "t.recall@7": estimate(0.2)}
    assert headlines(report(metrics=deep)) == ["t.ndcg@7", "t.recall@7"]
    labels = {"rating.rmse": estimate(1.0), "rating.auc": estimate(0.7)}
    means = {"training_mean": {"rating.rmse": estimate(1.2)}}
    judged = report(metrics=labels, baselines={"popularity": {}, **means})
    assert headlines(judged) == ["rating.rmse", "rating.auc"]
    assert first_beside(judged, "rating.rmse") == ("training mean", estimate(1.2))
    assert first_beside(judged, "rating.auc") is None
    assert [pretty(name) for name in ("rating.rmse", "a.b.ndcg@10", "x.new@3")] == ["RMSE", "NDCG@10", "new@3"]


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_a_table_has_a_column_for_each_baseline_that_says_something_and_the_parent():
    lists, knn = report(), {"next_item.ndcg@10": Estimate(0.25, math.nan, math.nan, 50)}
    metrics = {**lists.metrics, "next_item.coverage@10": Estimate(0.5, 0.5, 0.5, 50), "rating.rmse": estimate(1.0)}
    means = {"rating.rmse": estimate(1.25)}
    baselines = {**lists.baselines, "itemknn": knn, "training_mean": means}
    node = replace(lists, metrics=metrics, baselines=baselines)
    accuracy, beyond, labels = str(report_tables(node, lists)).split("<h3>")[1:]
    rows = cells(accuracy)
    assert rows[0] == ["metric", "this run", "popularity", "vs popularity", "itemknn", "parent run"]
    assert [row[0].partition("<")[0] for row in rows[1:]] == ["NDCG@5", "NDCG@10", "Recall@10"]
    assert [value.partition("<")[0] for value in rows[2][1:]] == ["0.3000", "0.1000", "3.00 ×", "0.2500", "0.3000"]
    assert "<small>0.2900 to 0.3100</small>" in rows[2][1]
    assert rows[2][4] == "0.2500"
    assert rows[1][4] == ""
    assert cells(beyond)[0] == ["metric", "this run"]
    assert cells(beyond)[1] == ["Coverage@10<small>share of the catalogue that is shown to somebody</small>", "0.5000"]
    assert cells(labels)[0] == ["metric", "this run", "training mean", "vs training mean"]
    assert cells(labels)[1][3] == "0.80 ×"


def test_curves_are_drawn_for_what_was_recorded():
    lines = [
        {"loss": 3.0, "loss/a": 2.0, "loss/b": 1.0, "epoch": 1, "users_per_second": 9.0},
        {"loss": 2.0, "loss/a": 1.0, "loss/b": 1.0, "epoch": 2, "a.recall@10": 0.1, "a.ndcg@10": 0.2, "b.rmse": 1.0},
    ]
    drawn = [one for name, one in figures(page(facts(history=lines))).items() if name.startswith("curve")]
    assert [one["name"] for one in drawn] == [
        *("training loss", "training loss of a", "training loss of b"),
        *("NDCG@10 of a on validation", "RMSE of b on validation"),
    ]
    assert drawn[0]["values"] == [3.0, 2.0]
    assert (drawn[3]["epochs"], drawn[3]["values"], drawn[3]["kept"]) == ([2], [0.2], 2)
    watched = figures(page(facts(history=lines, monitor="a.recall@10")))
    assert "Recall@10 of a on validation" in {one["name"] for one in watched.values() if "name" in one}
    assert "No epoch was recorded." in page(facts(history=[]))


BALANCE = [
    {"loss": 2.0, "weight/a": 1.0, "weight/b": 0.5, "weight/c": 1.5, "cosine/a|b": -0.1, "cosine/b|c": 0.0, "epoch": 1},
    {"loss": 1.0, "weight/a": 0.9, "weight/b": 0.6, "weight/c": 1.5, "cosine/a|b": -0.3, "cosine/b|c": 0.1, "epoch": 2},
]
GATES = {"a": {"shared 1": 0.25, "own 1": 0.75}, "b": {"shared 1": 0.5, "shared 2": 0.5}}


def card(text: str, title: str) -> str:
    return text[text.index(f"<h2>{title}</h2>") :].partition("</section>")[0]


def heat(text: str, title: str) -> list[list[str]]:
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in cells(card(text, title))]


def test_weights_and_conflicts_are_drawn_as_they_were_recorded():
    text = page(facts(history=BALANCE))
    drawn = figures(text)
    weights, cosines = drawn["lines-weights"], drawn["lines-cosines"]
    assert {one["name"]: one["values"] for one in weights["series"]} == {
        "a": [1.0, 0.9],
        "b": [0.5, 0.6],
        "c": [1.5, 1.5],
    }
    assert (weights["series"][0]["epochs"], weights["kept"]) == ([1, 2], 2)
    assert {one["name"]: one["values"] for one in cosines["series"]} == {"a and b": [-0.1, -0.3], "b and c": [0.0, 0.1]}
    assert heat(text, "Task conflict") == [
        *(["", "a", "b", "c"], ["a", "", "−0.30", ""], ["b", "−0.30", "", "0.10"], ["c", "", "0.10", ""])
    ]
    assert "means of epoch 2, and over epochs" in card(text, "Task conflict")
    assert re.findall("<span>(.*?)</span>", card(text, "Task weights")) == ["a", "b", "c"]
    depths = re.findall(r'class="(\w+)" style="--depth: (\d+)%"', card(text, "Task conflict"))
    assert depths == [("under", "55"), ("under", "55"), ("over", "18"), ("over", "18")]


def test_one_epoch_of_cosines_has_no_course_and_losses_alone_no_cosines():
    text = page(facts(history=BALANCE[:1]))
    assert "lines-weights" in figures(text)
    assert "cosines" not in "".join(figures(text))
    assert heat(text, "Task conflict")[1:] == [
        ["a", "", "−0.10", ""],
        ["b", "−0.10", "", "0.00"],
        ["c", "", "0.00", ""],
    ]
    assert 'class="under" style="--depth: 28%"' in card(text, "Task conflict"), "0.2 is deepest where all are less"
    plain = [{name: value for name, value in line.items() if "|" not in name} for line in BALANCE]
    text = page(facts(history=plain))
    assert not any("cosines" in name for name in figures(text))
    assert "Task conflict" not in text


def test_gates_are_those_of_the_split_that_comes_first():
    text = page(facts(reports=[report("valid", gates=dict.fromkeys("ab", GATES["a"])), report(gates=GATES)]))
    assert heat(text, "Gates") == [
        ["", "shared 1", "own 1", "shared 2"],
        ["a", "25.0 %", "75.0 %", ""],
        ["b", "50.0 %", "", "50.0 %"],
    ]
    assert "over its targets of test." in card(text, "Gates")


def test_a_task_alone_shares_with_nobody():
    line = {"loss": 2.0, "loss/a": 2.0, "weight/a": 1.0, "epoch": 1}
    text = page(facts(history=[line], reports=[report(gates={"a": GATES["a"]})]))
    assert [name for name in figures(text) if name.startswith("lines")] == []
    for title in ("Task weights", "Task conflict", "Gates"):
        assert f"<h2>{title}</h2>" not in text


def test_names_of_tasks_are_escaped_where_they_share():
    line = {f"weight/{HOSTILE}": 1.0, "weight/b": 1.0, f"cosine/{HOSTILE}|b": math.nan, "epoch": 1}
    text = page(facts(history=[line], reports=[report(gates={HOSTILE: {HOSTILE: 1.0}, "b": {HOSTILE: 1.0}})]))
    assert figures(text)["lines-weights"]["series"][0]["name"] == ESCAPED
    assert f"<span>{ESCAPED}</span>" in card(text, "Task weights")
    assert heat(text, "Task conflict") == [["", ESCAPED, "b"], [ESCAPED, "", ""], ["b", "", ""]]
    assert heat(text, "Gates") == [["", ESCAPED], [ESCAPED, "100.0 %"], ["b", "100.0 %"]]
    assert text.count("<script") == 3


def test_probabilities_are_drawn_against_what_came_true():
    labels, raw, shown = np.tile([1.0, 0, 0, 0], 60), np.repeat([0.2, 0.6], 120), np.repeat([0.2, 0.3], 120)
    clicks = Predictions(shown, labels, np.arange(240), 1.0, "probability", raw)
    found = reliabilities({HOSTILE: clicks, "rating": replace(clicks, predicts="value")})
    text = page(facts(reliabilities=found))
    before, after = figures(text)["reliability-0"]["series"]
    assert (before["name"], after["name"]) == ("before calibration", "calibrated")
    assert (before["predicted"], before["observed"], before["counts"]) == (
        pytest.approx([0.2, 0.6]),
        pytest.approx([0.25, 0.25]),
        [120, 120],
    )
    assert after["predicted"] == pytest.approx([0.2, 0.3])
    assert f"<h2>Calibration of {ESCAPED}</h2>" in text
    assert "observed on test, in at most 15 bins" in text
    assert "Calibration error: 0.2000 before calibration, 0.0500 calibrated." in text
    assert "reliability-1" not in text
    (alone,) = figures(page(facts(reliabilities=reliabilities({"click": replace(clicks, raw_N=None)}))))[
        "reliability-0"
    ]["series"]
    assert alone["name"] == "as predicted"


def test_slices_stand_beside_those_of_popularity():
    drawn = figures(page(facts()))
    users, items = drawn["slices-history"], drawn["slices-item"]
    assert users["slices"] == ["no event (cold)"]
    assert [one["name"] for one in users["series"]] == ["this run", "popularity"]
    assert users["series"][1]["points"] == [pytest.approx({"mean": 0.05, "low": 0.04, "high": 0.06, "count": 50})]
    assert (items["slices"], len(items["series"])) == (["tail"], 1)


@pytest.mark.parametrize("reports", [[], [report(metrics={}, slices={})], [report("valid", notes=("a remark",))]])
def test_whatever_is_missing_there_is_a_page(reports):
    text = page(facts(reports=reports, history=[], popular_slices={}, examples="There are no examples: none."))
    assert text.endswith("</html>\n")
    assert "There are no examples: none." in text
    assert "nan" not in body(text).lower()
    assert ("a remark" in text) == any(found.notes for found in reports)


def test_an_example_marks_what_was_hit():
    text = body(page(facts(examples=Examples((example(), example("c", "miss")), "test", {"hit": 0.5}, 2, 9, 20))))
    hit, miss = re.findall("<article>(.*?)</article>", text)
    assert re.findall(r"<li( class=found)?><span title=\"\w\">(\w)</span>", hit) == [
        *(("", "a"), ("", "a"), ("", "b"), (" class=found", "a"))
    ]
    assert "<small>place 2, had before</small>" in hit
    assert "3 earlier" in hit
    assert '<span class="kind miss">miss</span>' in miss
    assert "Of the first 2 of 9 users of the test split there are 50.0 % hits" in text


def test_who_is_shown_is_decided_by_order_alone():
    hit, near, miss = 0, 1, 2
    assert choose(np.array([miss, hit] * 8)) == [1, 3, 5, 7, 9, 11, 0, 2, 4, 6, 8, 10]
    kinds = np.array([miss] * 20 + [near] + [hit] * 20)
    assert choose(kinds) == [21, 22, 23, 24, 20, 0, 1, 2, 3, 4, 5, 6]
    assert choose(np.array([miss, near, hit])) == [2, 1, 0]
    assert choose(np.zeros(0, np.int64)) == []


def test_kinds_follow_from_the_place_of_what_was_held_out(contract_dataset, contract_reader):
    """A list per user with its held-out item at a chosen place: 1, 10, 11, nowhere, or no list at all."""
    rows = contract_dataset.rows_with_targets(Split.TEST)[:40]
    users = contract_reader.rows(rows)
    lists, places = [], np.array([1, 10, 11, 0, -1] * 8)
    for at, place in enumerate(places):
        own = slice(users.offsets[at], users.offsets[at + 1])
        (held_out,) = users.items[own][users.marks[own] == Split.TEST]
        others = [item for item in range(FIRST_ITEM, FIRST_ITEM + 40) if item != held_out]
        lists.append(
            None if place < 0 else [*others[: place - 1], held_out, *others[place - 1 : 11]] if place else others[:12]
        )
    ids = contract_reader.user_ids(rows)
    kept = Kept(pa.table({"row": rows, "user_id": ids, "items": pa.array(lists, pa.list_(pa.int32()))}))
    vocabulary = Vocabulary(contract_dataset.vocabulary.item_ids)
    titles = pa.array([f"Title of {item}" for item in vocabulary.item_ids.to_pylist()])
    catalog = Catalog(contract_dataset.catalog.table.set_column(2, "title", titles))
    found = find_examples(kept, Split.TEST, contract_reader, vocabulary, catalog)
    assert [one.kind for one in found.chosen] == ["hit"] * 4 + ["near miss"] * 4 + ["miss"] * 4
    place_of = dict(zip(ids.to_pylist(), places.tolist(), strict=True))
    for one in found.chosen:
        (held_out,) = one.held_out
        assert held_out.item.title == f"Title of {held_out.item.item_id}"
        assert held_out.place == place_of[one.user_id]
    assert found.shares == {"hit": 0.5, "near miss": 0.25, "miss": 0.25}
    assert (found.num_sampled, found.num_users, found.depth) == (32, 32, 12)
