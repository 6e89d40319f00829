"""Metrics of predicted values against labels: RMSE, and AUC where labels have a positive side.

Intervals draw whole users, because a user's labels hang together: a drawn user's pairs weigh as often as it was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysys.evaluation.intervals import draw_users, interval
from raysys.evaluation.protocol import Estimate, EvaluationConfig

_AUC_RESAMPLES = 200


@dataclass(frozen=True)
class Predictions:
    """Predicted and true values of labelled pairs."""

    predicted_N: np.ndarray
    labels_N: np.ndarray
    users_N: np.ndarray  # row of the dataset
    positive_from: float | None


def join(parts: Sequence[Predictions]) -> Predictions:
    """Put the pairs of several parts behind each other."""
    return Predictions(
        np.concatenate([part.predicted_N for part in parts]),
        np.concatenate([part.labels_N for part in parts]),
        np.concatenate([part.users_N for part in parts]),
        parts[0].positive_from,
    )


def rmse(predicted_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted_N - labels_N) ** 2)))


def auc(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN with one class only."""
    return float(weighted_auc(scores_N, positive_N, np.ones((1, len(scores_N)), np.float64))[0])


def weighted_auc(scores_N: np.ndarray, positive_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Return the AUC [R] where every pair counts by its weight; NaN where one class weighs nothing.

    sum over positives of weight x (weight of negatives below + half of that of negatives that tie) / (both weights).
    """
    order_N = np.argsort(scores_N, kind="stable")
    sorted_N = scores_N[order_N]
    firsts = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]])) if len(sorted_N) else order_N
    weights_RN, positive_N = weights_RN[:, order_N], positive_N[order_N]
    if not len(firsts):
        return np.full(len(weights_RN), np.nan)
    high_RT = np.add.reduceat(weights_RN * positive_N, firsts, axis=1)  # T distinct scores
    low_RT = np.add.reduceat(weights_RN * ~positive_N, firsts, axis=1)
    wins_R = (high_RT * (np.cumsum(low_RT, axis=1) - low_RT / 2)).sum(axis=1)
    pairs_R = high_RT.sum(axis=1) * low_RT.sum(axis=1)
    return np.divide(wins_R, pairs_R, out=np.full(len(wins_R), np.nan), where=pairs_R > 0)


def pointwise_metrics(predictions: Predictions) -> dict[str, float]:
    """Return RMSE and, where labels have a positive side, AUC."""
    metrics = {"rmse": rmse(predictions.predicted_N, predictions.labels_N)}
    if predictions.positive_from is not None:
        metrics["auc"] = auc(predictions.predicted_N, predictions.labels_N >= predictions.positive_from)
    return metrics


def pointwise_samples(predictions: Predictions, config: EvaluationConfig) -> dict[str, np.ndarray]:
    """Return bootstrap values of the metrics [R]; AUC is drawn 200 times at most.

    Predictions of equally many users are drawn alike: their differences are paired.
    """
    users, codes_N = np.unique(predictions.users_N, return_inverse=True)
    num_pairs_U = np.bincount(codes_N, minlength=len(users)).astype(np.float64)
    errors_N = (predictions.predicted_N.astype(np.float64) - predictions.labels_N) ** 2
    errors_U = np.bincount(codes_N, errors_N, minlength=len(users))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in pointwise_metrics(predictions)}
    done = 0
    for counts_RU in draw_users(len(users), config.resamples):
        parts["rmse"].append(np.sqrt((counts_RU @ errors_U) / (counts_RU @ num_pairs_U)))
        for counts_U in counts_RU[: max(_AUC_RESAMPLES - done, 0)] if "auc" in parts else ():
            positive_N = predictions.labels_N >= predictions.positive_from
            weights_1N = counts_U[codes_N][None].astype(np.float64)
            parts["auc"].append(weighted_auc(predictions.predicted_N, positive_N, weights_1N))
        done += len(counts_RU)
    return {name: np.concatenate(values) for name, values in parts.items()}


def pointwise_estimates(predictions: Predictions, config: EvaluationConfig) -> dict[str, Estimate]:
    """Return the metrics with intervals."""
    samples, count = pointwise_samples(predictions, config), len(predictions.labels_N)
    return {
        name: Estimate(value, *interval(samples[name], config.confidence), count)
        for name, value in pointwise_metrics(predictions).items()
    }
