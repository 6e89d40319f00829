"""Metrics of predictions against labels: of probabilities, and of values such as ratings or watch time.

Intervals draw whole users, because a user's labels hang together: a drawn user's pairs weigh as often as it was drawn.
AUC of users: Zhou et al., "Deep Interest Network" (2018); normalised entropy: He et al., "Practical Lessons from
Predicting Clicks on Ads at Facebook" (2014); XAUC: Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction"
(2022), here over all pairs. Legend: N pairs, U users, R resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from raysys.evaluation.intervals import draw_users, interval
from raysys.evaluation.ordering import ByScore, Masses, auc, auc_per_user, masses_of, rightly_ordered, top_decile_lift
from raysys.evaluation.protocol import Estimate, EvaluationConfig
from raysys.evaluation.reliability import reliability

_MOST_DRAWN = 200  # resamples of what is no ratio of sums over users
_OF_ORDER = ("auc", "gauc", "xauc", "top_decile_lift")
_CHEAP = ("auc", "gauc", "log_loss", "rmse", "mae")
_LEAST = 1e-7  # probabilities are f32: nothing is nearer to 0 or 1 in a loss


@dataclass(frozen=True)
class Predictions:
    """Predicted and true values of labelled pairs."""

    predicted_N: np.ndarray
    labels_N: np.ndarray
    users_N: np.ndarray  # row of the dataset
    positive_from: float | None
    predicts: Literal["probability", "value"] = "value"
    raw_N: np.ndarray | None = None  # probabilities before they were calibrated; None where they were not
    is_constant: bool = False  # a baseline that says nothing about order

    @cached_property
    def owners(self) -> tuple[np.ndarray, int]:
        """Numbers of the users from 0 on [N], and how many users there are."""
        users, codes_N = np.unique(self.users_N, return_inverse=True)
        return codes_N, len(users)

    @property
    def is_positive(self) -> np.ndarray:
        """Which labels are positive [N] bool."""
        assert self.positive_from is not None
        return self.labels_N >= self.positive_from

    @cached_property
    def gauc_sums(self) -> dict[str, np.ndarray]:
        """Pairs, and pairs x AUC, of each user with labels of both classes [U]; 0 of the others."""
        codes_N, num_users = self.owners
        auc_U = auc_per_user(self.predicted_N, self.is_positive, codes_N, num_users)
        weights_U = np.where(np.isnan(auc_U), 0.0, np.bincount(codes_N, minlength=num_users))
        return {"within": np.nan_to_num(auc_U) * weights_U, "both_classes": weights_U}

    def only(self, chosen_N: np.ndarray) -> "Predictions":
        """Return some of the pairs."""
        raw_N = None if self.raw_N is None else self.raw_N[chosen_N]
        parts = (self.predicted_N[chosen_N], self.labels_N[chosen_N], self.users_N[chosen_N])
        return Predictions(*parts, self.positive_from, self.predicts, raw_N, self.is_constant)


def join(parts: Sequence[Predictions]) -> Predictions:
    """Put the pairs of several parts of one task behind each other."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("predicted_N", "labels_N", "users_N", "raw_N")
        if getattr(parts[0], name) is not None
    }
    return replace(parts[0], **columns)


def metric_names(predictions: Predictions) -> list[str]:
    """Return the metrics that can be measured of predictions, in the order of reports."""
    if predictions.predicts == "probability":
        calibrated = [] if predictions.raw_N is None else ["ece_raw"]
        names = ["auc", "gauc", "log_loss", "normalised_entropy", "ece", "ece_floor", *calibrated, "top_decile_lift"]
    else:
        names = ["rmse", "mae", *(["auc", "gauc"] if predictions.positive_from is not None else []), "xauc"]
    if predictions.is_constant:
        names = [name for name in names if name not in _OF_ORDER]
    if "gauc" in names and not predictions.gauc_sums["both_classes"].any():
        names.remove("gauc")
    return names


def cheap_metrics(predictions: Predictions) -> dict[str, float]:
    """Return what costs little of `pointwise_metrics`: for validation inside a run."""
    return _measure(predictions, [name for name in metric_names(predictions) if name in _CHEAP])


def pointwise_metrics(predictions: Predictions) -> dict[str, float]:
    """Return all metrics of predictions."""
    return _measure(predictions, metric_names(predictions))


def pointwise_samples(predictions: Predictions, config: EvaluationConfig) -> dict[str, np.ndarray]:
    """Return bootstrap values of the metrics [R]; those that are no ratio of sums are drawn 200 times at most.

    Predictions of equally many users are drawn alike: their differences are paired.
    """
    names, (codes_N, num_users) = metric_names(predictions), predictions.owners
    sums = _sums(predictions, names)
    stacked_US = np.stack(list(sums.values()), axis=1)
    drawn = {name: _DRAWN[name] for name in names if name in _DRAWN}
    grouped = {
        raw: ByScore.of(_scores(predictions, raw), predictions.is_positive, codes_N, num_users)
        for raw in {_is_raw(name) for name in drawn}
    }
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    done = 0
    for counts_RU in draw_users(num_users, config.resamples):
        totals = dict(zip(sums, (counts_RU @ stacked_US).T, strict=True))
        for name in (name for name in names if name not in drawn):
            parts[name].append(_RATIOS[name](totals))
        few_RU = counts_RU[: max(_MOST_DRAWN - done, 0)]
        masses = {raw: list(by_score.masses(few_RU)) for raw, by_score in grouped.items()}
        for name, measure in drawn.items():
            parts[name].append(np.array([measure(one) for one in masses[_is_raw(name)]]))
        done += len(counts_RU)
    found = {name: np.concatenate(values) for name, values in parts.items()}
    if "xauc" in found:  # a sum over pairs of pairs: a user's weight counts on both sides, to first order
        found["xauc"] = np.clip(2 * found["xauc"] - _ratio(sums["right"].sum(), sums["comparable"].sum()), 0, 1)
    return found


def pointwise_estimates(predictions: Predictions, config: EvaluationConfig) -> dict[str, Estimate]:
    """Return the metrics with intervals; the count is of pairs, of GAUC that of users with both classes."""
    samples, count = pointwise_samples(predictions, config), len(predictions.labels_N)
    return {
        name: Estimate(
            value,
            *interval(samples[name], config.confidence),
            int((predictions.gauc_sums["both_classes"] > 0).sum()) if name == "gauc" else count,
        )
        for name, value in pointwise_metrics(predictions).items()
    }


def pointwise_notes(task: str, predictions: Predictions) -> list[str]:
    """Return what a reader has to know of the metrics of a task."""
    if "gauc" not in metric_names(predictions):
        return []
    both, (_, num_users) = int((predictions.gauc_sums["both_classes"] > 0).sum()), predictions.owners
    return [f"{task}.gauc: {both:,} of {num_users:,} users have labels of both classes; the others are left out"]


def _measure(predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
    totals = {name: values.sum() for name, values in _sums(predictions, names).items()}
    masses = {
        raw: masses_of(_scores(predictions, raw), predictions.is_positive)
        for raw in {_is_raw(name) for name in names if name in _DRAWN}
    }
    found = {}
    for name in names:
        found[name] = float(_DRAWN[name](masses[_is_raw(name)]) if name in _DRAWN else _RATIOS[name](totals))
    return found


def _sums(predictions: Predictions, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the sums over the pairs of each user [U] f64 that ratios are made of."""
    codes_N, num_users = predictions.owners
    columns: dict[str, np.ndarray] = {"pairs": np.ones(len(codes_N))}
    if "log_loss" in names:
        columns |= {"losses": _log_losses(predictions), "positives": predictions.is_positive}
    if "rmse" in names:
        errors_N = predictions.predicted_N.astype(np.float64) - predictions.labels_N
        columns |= {"squares": errors_N**2, "absolutes": np.abs(errors_N)}
    if "xauc" in names:
        ordered = rightly_ordered(predictions.predicted_N, predictions.labels_N)
        columns |= dict(zip(("right", "comparable"), ordered, strict=True))
    sums = {name: np.bincount(codes_N, values, num_users) for name, values in columns.items()}
    return sums | (predictions.gauc_sums if "gauc" in names else {})


def _log_losses(predictions: Predictions) -> np.ndarray:
    bounded_N = np.clip(predictions.predicted_N.astype(np.float64), _LEAST, 1 - _LEAST)
    return -np.log(np.where(predictions.is_positive, bounded_N, 1 - bounded_N))


def _ratio(over: Any, under: Any) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(over, under)  # NaN where nothing weighs


def _normalised_entropy(totals: Mapping[str, Any]) -> np.ndarray:
    """Return the log loss over that of who always says the rate of positives of these pairs."""
    rate = totals["positives"] / totals["pairs"]
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return _ratio(totals["losses"] / totals["pairs"], entropy)


_RATIOS: dict[str, Callable[[Mapping[str, Any]], np.ndarray]] = {
    "rmse": lambda totals: np.sqrt(totals["squares"] / totals["pairs"]),
    "mae": lambda totals: totals["absolutes"] / totals["pairs"],
    "log_loss": lambda totals: totals["losses"] / totals["pairs"],
    "normalised_entropy": _normalised_entropy,
    "gauc": lambda totals: _ratio(totals["within"], totals["both_classes"]),
    "xauc": lambda totals: _ratio(totals["right"], totals["comparable"]),
}


def _error(masses: Masses) -> float:
    return reliability(masses).error


def _floor(masses: Masses) -> float:
    return reliability(masses).floor


_DRAWN: dict[str, Callable[[Masses], float]] = {
    "auc": auc,
    "ece": _error,
    "ece_floor": _floor,
    "ece_raw": _error,
    "top_decile_lift": top_decile_lift,
}


def _is_raw(name: str) -> bool:
    return name == "ece_raw"


def _scores(predictions: Predictions, raw: bool) -> np.ndarray:
    return predictions.raw_N if raw and predictions.raw_N is not None else predictions.predicted_N
