"""A whole evaluation, user by user in plain Python, against the one that runs in batches."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysys.configfile import build
from raysys.data.batches import Targets, make_queries
from raysys.data.hashing import hash_ids
from raysys.data.reader import history_rows
from raysys.data.schema import FIRST_ITEM, Split
from raysys.errors import UserError
from raysys.evaluation.evaluate import collect, evaluate, merge, summarise
from raysys.evaluation.protocol import PROTOCOL, EvaluationConfig

DEPTHS = (3, 10)
LABELS = {f"rating.{name}" for name in ("rmse", "mae", "auc", "xauc")}  # one label a user: no AUC within users


def known_before(line: list[dict], split: Split) -> list[int]:
    return [event["item"] for event in line if event["mark"] < split]


def held_out(line: list[dict], split: Split) -> list[dict]:
    return [event for event in line if event["mark"] == split]


@torch.inference_mode()
def state_after(network, items: list[int], max_length: int) -> tuple:
    """Return (encoded, state) after a history, through the smallest possible batch."""
    rows = history_rows([np.array([item for item in items if item >= FIRST_ITEM], np.int32)])
    queries = make_queries(rows, Split.NONE, np.array([True]), max_length)
    encoded = network.recommender(queries.history)
    return encoded, queries.anchor_B


def expected_ranking(
    network, lines, split: Split, max_length: int, exclude_seen: bool = True
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    table = network.recommender.items.table()
    for line in lines:
        wanted = {event["item"] for event in held_out(line, split)}
        if not wanted:
            continue
        encoded, anchor = state_after(network, known_before(line, split), max_length)
        with torch.inference_mode():
            query = network.tasks["next_item"].query(encoded, anchor.unsqueeze(1)).squeeze(1)
            scores = (query @ table.T)[0].tolist()
        ranked = sorted(range(FIRST_ITEM, FIRST_ITEM + len(scores)), key=lambda item: -scores[item - FIRST_ITEM])
        if exclude_seen:
            ranked = [item for item in ranked if item not in known_before(line, split)]
        add_metrics(found, ranked, wanted)
    return found


def add_metrics(found: dict[str, list[float]], ranked: list[int], wanted: set[int]) -> None:
    for k in DEPTHS:
        hits = [place for place, item in enumerate(ranked[:k]) if item in wanted]
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
        metrics = {
            "ndcg": sum(1 / math.log2(place + 2) for place in hits) / ideal,
            "recall": len(hits) / len(wanted),
            "hit_rate": float(bool(hits)),
            "mrr": 1 / (hits[0] + 1) if hits else 0.0,
        }
        for name, value in metrics.items():
            found.setdefault(f"next_item.{name}@{k}", []).append(value)


@pytest.mark.parametrize("split", [Split.VALID, Split.TEST])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_ranking_metrics_are_those_of_one_user_after_the_other(judge, network, user_lines, split, exclude_seen):
    judge = replace(judge, config=judge.config.model_copy(update={"exclude_seen": exclude_seen}))
    found = collect(judge, network, split)
    expected = expected_ranking(network, user_lines, split, judge.max_length, exclude_seen)
    assert set(found.per_user) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.per_user[name], values, atol=1e-6, err_msg=name)
    seen_anywhere = [
        set(found.items_UK[at]) & set(known_before(user_lines[row], split)) for at, row in enumerate(found.users_U)
    ]
    assert any(seen_anywhere) != exclude_seen


@torch.inference_mode()
def expected_ratings(network, lines, split: Split, max_length: int) -> list[tuple[float, float]]:
    pairs = []
    for line in lines:
        for at, event in enumerate(line):
            if event["mark"] == split and not math.isnan(event["rating"]):
                encoded, anchor = state_after(network, [before["item"] for before in line[:at]], max_length)
                one = torch.tensor([[event["item"]]])
                targets = Targets(one, anchor.unsqueeze(1), one * 0, one * 0, one > 0, {})
                pairs.append((network.tasks["rating"].logits(encoded, targets).item(), event["rating"]))
    return pairs


@pytest.mark.parametrize("split", [Split.VALID, Split.TEST])
def test_label_metrics_are_those_of_one_pair_after_the_other(judge, network, user_lines, split):
    found = summarise(collect(judge, network, split))
    pairs = expected_ratings(network, user_lines, split, judge.max_length)
    assert found["rating.rmse"] == pytest.approx(math.sqrt(sum((p - y) ** 2 for p, y in pairs) / len(pairs)), abs=1e-5)
    high = [p for p, y in pairs if y >= 4]
    low = [p for p, y in pairs if y < 4]
    wins = sum((h > other) + (h == other) / 2 for h in high for other in low)
    assert found["rating.auc"] == pytest.approx(wins / len(high) / len(low), abs=1e-6)


def test_the_report_stands_beside_popularity_and_the_training_mean(judge, network, user_lines):
    report = evaluate(judge, network, Split.TEST)
    assert (report.split, report.protocol) == ("test", PROTOCOL)
    model = expected_ranking(network, user_lines, Split.TEST, judge.max_length)
    counts = Counter(event["item"] for line in user_lines for event in line if event["mark"] == Split.TRAIN)
    num_items = judge.dataset.manifest.num_items
    popular = sorted(range(FIRST_ITEM, FIRST_ITEM + num_items), key=lambda item: (-counts[item], item))
    baseline: dict[str, list[float]] = {}
    for line in user_lines:
        if held_out(line, Split.TEST):
            known = known_before(line, Split.TEST)
            wanted = {event["item"] for event in held_out(line, Split.TEST)}
            add_metrics(baseline, [item for item in popular if item not in known], wanted)
    for metrics, expected in ((report.metrics, model), (report.baselines["popularity"], baseline)):
        for name, values in expected.items():
            assert metrics[name].mean == pytest.approx(np.mean(values), abs=1e-6), name
            assert metrics[name].low <= metrics[name].mean <= metrics[name].high
            assert metrics[name].count == len(values)
    labels = [(e["rating"], e["mark"]) for line in user_lines for e in line if not math.isnan(e["rating"])]
    mean = np.mean([rating for rating, mark in labels if mark == Split.TRAIN])
    error = math.sqrt(np.mean([(rating - mean) ** 2 for rating, mark in labels if mark == Split.TEST]))
    assert report.baselines["training_mean"].keys() == {"rating.rmse", "rating.mae"}
    assert report.baselines["training_mean"]["rating.rmse"].mean == pytest.approx(error, abs=1e-5)
    covered = report.baselines["popularity"]["next_item.coverage@3"].mean
    assert 0 < covered <= report.metrics["next_item.coverage@10"].mean <= 1


def test_ranks_that_share_the_users_find_the_same(judge, network):
    whole = collect(judge, network, Split.TEST)
    merged = merge([collect(judge, network, Split.TEST, rank, 3) for rank in range(3)])
    np.testing.assert_array_equal(merged.users_U, whole.users_U)
    np.testing.assert_array_equal(merged.items_UK, whole.items_UK)
    assert summarise(merged) == pytest.approx(summarise(whole), abs=1e-6)


def test_a_model_that_does_not_retrieve_has_label_metrics_only(judge, make_network):
    report = evaluate(judge, make_network("rating"), Split.TEST)
    assert set(report.metrics) == LABELS
    assert report.baselines["popularity"] == {}
    assert set(report.baselines["training_mean"]) == {"rating.rmse", "rating.mae"}
    assert report.slices == {}


def test_a_model_without_labels_has_ranking_metrics_only(judge, make_network):
    report = evaluate(judge, make_network("next_item"), Split.VALID)
    assert {name.partition(".")[0] for name in report.metrics} == {"next_item"}
    assert {name.rpartition("@")[0] for name in report.metrics} == {
        f"next_item.{name}"
        for name in (
            *("ndcg", "recall", "hit_rate", "mrr"),
            *("coverage", "gini", "novelty", "popularity", "popularity_lift", "serendipity"),
        )
    }
    assert set(report.baselines) == {"popularity"}
    assert set(report.baselines["popularity"]) == set(report.metrics)


# Samples of users


def sampled(judge, number):
    return replace(judge, config=judge.config.model_copy(update={"max_users": number}))


def test_a_sample_of_users_is_always_the_same_and_part_of_any_larger_one(judge):
    everybody = judge.dataset.rows_with_targets(Split.TEST)
    samples = [sampled(judge, number).rows(Split.TEST) for number in (20, 40, 80)]
    assert [len(rows) for rows in samples] == [20, 40, 80]
    for smaller, larger in zip(samples, [*samples[1:], everybody], strict=True):
        assert set(smaller) < set(larger)
        assert smaller.tolist() == sorted(smaller)
    assert sampled(judge, 20).rows(Split.TEST).tolist() == samples[0].tolist()
    assert samples[0].tolist() != everybody[:20].tolist(), "the first users are no sample"
    ids = dict(zip(judge.reader.user_ids(everybody).to_pylist(), everybody.tolist(), strict=True))
    hashes = hash_ids(pa.array(ids))
    by_hash = sorted(zip(hashes.tolist(), ids.values(), strict=True))
    assert set(samples[0]) == {row for _, row in by_hash[:20]}, "only ids decide"
    assert sampled(judge, 10**6).rows(Split.TEST).tolist() == everybody.tolist()


def test_a_report_of_a_sample_says_so_and_ranks_all_items(judge, network):
    part, rows = sampled(judge, 50), sampled(judge, 50).rows(Split.TEST)
    report, whole = evaluate(part, network, Split.TEST), collect(judge, network, Split.TEST)
    assert (report.num_users, report.num_users_of_split) == (50, len(judge.dataset.rows_with_targets(Split.TEST)))
    chosen = np.isin(whole.users_U, rows)
    for name in ("next_item.ndcg@10", "next_item.recall@3"):
        assert report.metrics[name].mean == pytest.approx(whole.per_user[name][chosen].mean(), abs=1e-6)
        assert report.metrics[name].count == 50
    full = evaluate(judge, network, Split.TEST).metrics["next_item.ndcg@10"]
    width = report.metrics["next_item.ndcg@10"].high - report.metrics["next_item.ndcg@10"].low
    assert width > full.high - full.low, "fewer users leave more open"


# Baselines


def test_every_baseline_of_the_config_stands_beside_popularity(judge, network):
    config = build(EvaluationConfig, {**judge.config.model_dump(), "baselines": {"itemknn": {}}}, "test")
    report = evaluate(replace(judge, config=config), network, Split.TEST)
    assert list(report.baselines)[:2] == ["popularity", "itemknn"]
    assert set(report.baselines["itemknn"]) == set(report.metrics) - LABELS
    alone = evaluate(judge, network, Split.TEST)
    for name, found in alone.baselines["popularity"].items():
        assert report.baselines["popularity"][name].mean == found.mean
    with pytest.raises(UserError, match="itemknn"):
        build(EvaluationConfig, {"baselines": {"itemkn": {}}}, "test")
