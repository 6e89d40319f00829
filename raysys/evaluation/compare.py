"""Compares two runs user by user: a paired bootstrap of the differences over the users that both evaluated.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; pairing takes out what the users
have in common.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import UserError
from raysys.evaluation.intervals import PerUser, bootstrap, interval
from raysys.evaluation.outcomes import Kept
from raysys.evaluation.pointwise import Predictions, pointwise_metrics, pointwise_samples
from raysys.evaluation.protocol import EvaluationConfig


@dataclass(frozen=True)
class Difference:
    """One metric of two runs over the users that both have."""

    metric: str
    first: float
    second: float
    difference: float
    """Second minus first."""
    low: float
    high: float
    """The interval of the difference."""
    share_above_zero: float
    """Share of the resamples in which the second has more; a difference of 0 counts half."""
    num_users: int


@dataclass(frozen=True)
class Comparison:
    """Two runs, metric by metric."""

    split: str
    num_users: int
    """Users that both runs evaluated: the differences are over these."""
    num_users_each: tuple[int, int]
    pairing: str
    """How users were matched."""
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for --json.

        {"split", "num_users", "num_users_each": [first, second], "pairing", "differences": [{"metric", "first",
        "second", "difference", "low", "high", "share_above_zero", "num_users"}]}
        """
        return asdict(self)


def compare(first: Kept, second: Kept, split: str, same_dataset: bool, config: EvaluationConfig) -> Comparison:
    """Compare the outcomes of two runs, over the users and the metrics that both have.

    Users of one dataset are matched by their rows, users of different datasets by their ids.

    Raises:
        UserError: the runs have no user or no metric in common.
    """
    key = "row" if same_dataset else "user_id"
    rows_1, rows_2 = _matched(first.table[key], second.table[key])
    if not len(rows_1):
        known = "" if same_dataset else " (they were judged on different datasets, which share no user id)"
        raise UserError(f"runs compare: the runs have no user of the {split} split in common{known}")
    differences = [
        *_lists(first, second, rows_1, rows_2, config),
        *_labels(first.predictions(rows_1), second.predictions(rows_2), config),
    ]
    if not differences:
        raise UserError(f"runs compare: the runs have no metric in common ({_named(first)}; {_named(second)})")
    pairing = "by row: one dataset" if same_dataset else "by user id: different datasets, so held-out items may differ"
    sizes = (first.table.num_rows, second.table.num_rows)
    return Comparison(split, len(rows_1), sizes, pairing, tuple(differences))


def _matched(first: pa.ChunkedArray, second: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both tables that name the same users, in the order of the first."""
    place = pc.index_in(first, second).combine_chunks()
    known = place.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(known), place.drop_null().to_numpy()


def _lists(
    first: Kept, second: Kept, rows_1: np.ndarray, rows_2: np.ndarray, config: EvaluationConfig
) -> list[Difference]:
    names_1, names_2 = ({name.rpartition(".")[2]: name for name in kept.metrics} for kept in (first, second))
    pairs = {}
    for short in (short for short in names_1 if short in names_2):  # lists of different tasks are lists all the same
        name = names_1[short] if names_1[short] == names_2[short] else short
        pairs[name] = (first.per_user(names_1[short])[rows_1], second.per_user(names_2[short])[rows_2])
    gaps = {name: PerUser(other_U - own_U) for name, (own_U, other_U) in pairs.items()}
    gaps = {name: gap for name, gap in gaps.items() if gap.count}
    samples = bootstrap(gaps, config)
    found = []
    for name, gap in gaps.items():
        both = ~np.isnan(gap.values_U)
        own, other = (float(side[both].mean()) for side in pairs[name])
        found.append(_difference(name, own, other, samples[name], gap.count, config))
    return found


def _labels(
    first: dict[str, Predictions], second: dict[str, Predictions], config: EvaluationConfig
) -> list[Difference]:
    found = []
    for task in (task for task in first if task in second):
        both = np.intersect1d(first[task].users_N, second[task].users_N)
        own, other = (side[task].only(np.isin(side[task].users_N, both)) for side in (first, second))
        if not len(both):
            continue
        values, samples = (
            [pointwise_metrics(side) for side in (own, other)],
            [pointwise_samples(side, config) for side in (own, other)],
        )
        for name in (name for name in values[0] if name in values[1]):
            gaps_R = samples[1][name] - samples[0][name]
            metric = f"{task}.{name}"
            found.append(_difference(metric, values[0][name], values[1][name], gaps_R, len(both), config))
    return found


def _difference(
    metric: str, first: float, second: float, gaps_R: np.ndarray, num_users: int, config: EvaluationConfig
) -> Difference:
    low, high = interval(gaps_R, config.confidence)
    known_R = gaps_R[np.isfinite(gaps_R)]
    above = float(((known_R > 0) + (known_R == 0) / 2).mean()) if len(known_R) else float("nan")
    return Difference(metric, first, second, second - first, low, high, above, num_users)


def _named(kept: Kept) -> str:
    return ", ".join(kept.metrics) or "none"
