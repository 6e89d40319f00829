"""Test figures of several seeds of a config beside those of another: a bootstrap over the users that all runs share.

All figures of all runs are drawn with the same users, so that differences are paired, and sums of different figures are
too. A figure of several seeds is their mean, in the whole and in every resample: the interval is of users, with these
seeds as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysys.evaluation.intervals import PerUser, bootstrap, draw_users, interval
from raysys.evaluation.ordering import ByScore, auc, masses_of
from raysys.evaluation.outcomes import Kept
from raysys.evaluation.pointwise import Predictions, pointwise_metrics, pointwise_samples
from raysys.evaluation.protocol import EvaluationConfig


@dataclass(frozen=True)
class Sampled:
    """A figure and its resamples."""

    value: float
    values_R: np.ndarray


Figures = dict[str, Sampled]
"""By metric."""


def read_figures(run: Path, metrics: Sequence[str], config: EvaluationConfig) -> Figures:
    """Return the test figures of a run, those of the metrics that it keeps by user."""
    kept = Kept.read(run, "test")
    lists = {name: PerUser(kept.per_user(name)) for name in metrics if name in kept.metrics}
    drawn = bootstrap(lists, config)
    found = {name: Sampled(column.mean, drawn[name]) for name, column in lists.items()}
    num_users = kept.table.num_rows
    for task, pairs in kept.predictions(np.arange(num_users)).items():
        if f"{task}.auc" in metrics:
            found[f"{task}.auc"] = _auc(pairs, num_users, config)
        if f"{task}.xauc" in metrics:
            value, values_R = pointwise_metrics(pairs)["xauc"], pointwise_samples(pairs, config)["xauc"]
            found[f"{task}.xauc"] = Sampled(value, values_R)
    return {name: found[name] for name in metrics if name in found}


def _auc(pairs: Predictions, num_users: int, config: EvaluationConfig) -> Sampled:
    grouped = ByScore.of(pairs.predicted_N, pairs.is_positive, pairs.users_N, num_users)
    draws = draw_users(num_users, config.resamples)
    values_R = np.array([auc(masses) for counts_RU in draws for masses in grouped.masses(counts_RU)])
    return Sampled(auc(masses_of(pairs.predicted_N, pairs.is_positive)), values_R)


def add_sum(figures: Figures, name: str, parts: Mapping[str, tuple[float, float]]) -> Figures:
    """Return the figures and the sum of (figure - low) / (high - low) of some, whose (low, high) are given."""
    scaled = [
        Sampled((figures[part].value - low) / (high - low), (figures[part].values_R - low) / (high - low))
        for part, (low, high) in parts.items()
    ]
    total = Sampled(sum(one.value for one in scaled), np.sum([one.values_R for one in scaled], axis=0))
    return {name: total, **figures}


def differences(first: Sequence[Figures], second: Sequence[Figures], confidence: float) -> dict[str, dict[str, Any]]:
    """Return what the second config has more than the first, by metric; each is given by its figures of every seed."""
    return {name: _difference(first, second, name, confidence) for name in first[0] if name in second[0]}


def _difference(first: Sequence[Figures], second: Sequence[Figures], name: str, confidence: float) -> dict[str, Any]:
    gaps_SR = np.array([b[name].values_R - a[name].values_R for a, b in zip(first, second, strict=True)])
    gaps_R = gaps_SR.mean(axis=0)
    seeds = [b[name].value - a[name].value for a, b in zip(first, second, strict=True)]
    low, high = interval(gaps_R, confidence)
    found = {
        "first": np.mean([one[name].value for one in first]),
        "second": np.mean([one[name].value for one in second]),
        "difference": np.mean(seeds),
        "low": low,
        "high": high,
        "share_above_zero": (gaps_R > 0).mean(),
    }
    rounded: dict[str, Any] = {key: round(float(value), 5) for key, value in found.items()}
    return {**rounded, "of_seeds": [round(float(seed), 5) for seed in seeds]}
