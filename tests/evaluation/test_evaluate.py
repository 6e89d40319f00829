"""A whole evaluation, user by user in plain Python, against the one that runs in batches."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from raysys.data.batches import Targets, history_rows, make_queries
from raysys.data.schema import FIRST_ITEM, Split
from raysys.evaluation.evaluate import collect, evaluate, merge, summarise
from raysys.evaluation.protocol import PROTOCOL

DEPTHS = (3, 10)


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
            query = network.tasks["next_item"].query(encoded.state_before(anchor.unsqueeze(1)).squeeze(1))
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
    assert set(found.ranking) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.ranking[name], values, atol=1e-6, err_msg=name)
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
    for metrics, expected in ((report.metrics, model), (report.popularity, baseline)):
        for name, values in expected.items():
            assert metrics[name].mean == pytest.approx(np.mean(values), abs=1e-6), name
            assert metrics[name].low <= metrics[name].mean <= metrics[name].high
            assert metrics[name].count == len(values)
    labels = [(e["rating"], e["mark"]) for line in user_lines for e in line if not math.isnan(e["rating"])]
    mean = np.mean([rating for rating, mark in labels if mark == Split.TRAIN])
    error = math.sqrt(np.mean([(rating - mean) ** 2 for rating, mark in labels if mark == Split.TEST]))
    assert report.popularity["rating.rmse"].mean == pytest.approx(error, abs=1e-5)
    assert "rating.auc" not in report.popularity
    assert 0 < report.popularity["next_item.coverage@3"].mean <= report.metrics["next_item.coverage@10"].mean <= 1


def test_ranks_that_share_the_users_find_the_same(judge, network):
    whole = collect(judge, network, Split.TEST)
    rows = judge.dataset.rows_with_targets(Split.TEST)
    shares = [rows[rank::3] for rank in range(3)] + [rows[:0]]
    merged = merge([collect(judge, network, Split.TEST, share) for share in shares])
    np.testing.assert_array_equal(merged.users_U, whole.users_U)
    np.testing.assert_array_equal(merged.items_UK, whole.items_UK)
    assert summarise(merged) == pytest.approx(summarise(whole), abs=1e-6)


def test_a_model_that_does_not_retrieve_has_label_metrics_only(judge, make_network):
    report = evaluate(judge, make_network("rating"), Split.TEST)
    assert set(report.metrics) == {"rating.rmse", "rating.auc"}
    assert set(report.popularity) == {"rating.rmse"}


def test_a_model_without_labels_has_ranking_metrics_only(judge, make_network):
    report = evaluate(judge, make_network("next_item"), Split.VALID)
    assert {name.partition(".")[0] for name in report.metrics} == {"next_item"}
    assert {name.rpartition("@")[0] for name in report.metrics} == {
        f"next_item.{name}" for name in ("ndcg", "recall", "hit_rate", "mrr", "coverage")
    }
