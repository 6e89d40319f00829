"""Metrics of predicted values against labels: RMSE, and AUC where labels have a positive side."""

from dataclasses import dataclass

import numpy as np

from raysys.evaluation.protocol import Estimate, EvaluationConfig, interval

_AUC_RESAMPLES = 200


@dataclass(frozen=True)
class Predictions:
    """Predicted and true values of labelled pairs."""

    predicted_N: np.ndarray
    labels_N: np.ndarray
    users_N: np.ndarray  # row of the dataset
    positive_from: float | None


def rmse(predicted_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted_N - labels_N) ** 2)))


def auc(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN with one class only."""
    num_positive = int(positive_N.sum())
    num_negative = len(positive_N) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, inverse, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_ranks[inverse][positive_N].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def pointwise_metrics(predictions: Predictions) -> dict[str, float]:
    """Return RMSE and, where labels have a positive side, AUC."""
    metrics = {"rmse": rmse(predictions.predicted_N, predictions.labels_N)}
    if predictions.positive_from is not None:
        metrics["auc"] = auc(predictions.predicted_N, predictions.labels_N >= predictions.positive_from)
    return metrics


def pointwise_estimates(predictions: Predictions, config: EvaluationConfig) -> dict[str, Estimate]:
    """Return the metrics with intervals; whole users are drawn, because a user's ratings hang together."""
    values = pointwise_metrics(predictions)
    users, codes = np.unique(predictions.users_N, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    parts = np.split(order, ends[:-1])
    generator = np.random.default_rng(0)
    samples: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(min(config.resamples, _AUC_RESAMPLES)):
        drawn = np.concatenate([parts[user] for user in generator.integers(len(users), size=len(users))])
        resampled = Predictions(
            predictions.predicted_N[drawn], predictions.labels_N[drawn], drawn, predictions.positive_from
        )
        for name, value in pointwise_metrics(resampled).items():
            samples[name].append(value)
    count = len(predictions.labels_N)
    return {
        name: Estimate(value, *interval(np.array(samples[name]), config.confidence), count)
        for name, value in values.items()
    }
