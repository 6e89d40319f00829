"""The contract of a calibration, and what all kinds share: targets that are never quite 0 or 1, and log odds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none

from raysys.component import FrozenConfig

_LEAST = 1e-7  # predictions are f32: nothing is nearer to 0 or 1


class CannotFitError(ValueError):
    """A calibration cannot be fitted to these predictions; the text says why."""


@dataclass(frozen=True)
class Calibrator(ABC):
    """What makes the probabilities of one task agree with how often its label is positive; its fields are all it knows.

    It never turns an order round: where one prediction is larger than another, it stays at least as large.
    """

    Config: ClassVar[type[FrozenConfig]]

    @classmethod
    @abstractmethod
    def fit(cls, config: FrozenConfig, predicted_N: np.ndarray, positive_N: np.ndarray) -> "Calibrator":
        """Fit to predicted probabilities [N] and whether labels are positive [N] bool, both classes among them.

        The same input gives the same result.

        Raises:
            CannotFitError: the predictions do not allow it.
        """

    @abstractmethod
    def apply(self, predicted: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities f64, in the shape of what is given."""

    @abstractmethod
    def describe(self) -> str:
        """Return what was fitted, in a few words."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> "Calibrator":
        """Read what `to_json` wrote."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in node.items()})


def soft_targets(positive_N: np.ndarray) -> np.ndarray:
    """Return (P + 1) / (P + 2) for each of P positives and 1 / (Q + 2) for each of Q negatives [N] f64.

    Platt, "Probabilistic Outputs for Support Vector Machines" (1999): so much can be said of a class seen so often.
    Without it, classes that predictions part wholly would ask for certainty.
    """
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    return np.where(positive_N, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Return log p / (1 - p) f64, of probabilities at least 1e-7 away from 0 and 1."""
    bounded = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
    return np.log(bounded) - np.log1p(-bounded)


def fit_logistic(features_NK: np.ndarray, targets_N: np.ndarray, start_K: np.ndarray) -> np.ndarray:
    """Return weights [K] of the logistic regression on soft targets, by Newton's method with halved steps."""
    weights_K, loss = start_K, _loss(features_NK @ start_K, targets_N)
    for _ in range(100):
        probability_N = scipy.special.expit(features_NK @ weights_K)
        gradient_K = features_NK.T @ (probability_N - targets_N)
        curvature_KK = (features_NK * (probability_N * (1 - probability_N))[:, None]).T @ features_NK
        step_K = np.linalg.lstsq(curvature_KK, gradient_K, rcond=None)[0]  # one prediction for all: no inverse
        if np.abs(step_K).max() < 1e-10:
            break
        size = 1.0
        while size > 1e-6 and (lower := _loss(features_NK @ (weights_K - size * step_K), targets_N)) >= loss:
            size /= 2
        if size <= 1e-6:
            break
        weights_K, loss = weights_K - size * step_K, lower
    return weights_K


def _loss(log_odds_N: np.ndarray, targets_N: np.ndarray) -> float:
    return float((np.logaddexp(0, log_odds_N) - targets_N * log_odds_N).mean())
