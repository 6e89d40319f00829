"""Platt scaling: a line on the log odds, for predictions that are too sure, not sure enough, or off as a whole."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none

from raysys.component import FrozenConfig
from raysys.evaluation.calibration.calibrator import Calibrator, CannotFitError, fit_logistic, log_odds, soft_targets


@dataclass(frozen=True)
class Platt(Calibrator):
    """sigmoid(slope x log odds + offset), by maximum likelihood.

    Platt, "Probabilistic Outputs for Support Vector Machines" (1999).
    """

    slope: float
    offset: float

    class Config(FrozenConfig):
        """A line on the log odds: two numbers, so a few hundred pairs are enough."""

        kind: Literal["platt"] = "platt"

    @classmethod
    def fit(cls, config: FrozenConfig, predicted_N: np.ndarray, positive_N: np.ndarray) -> "Platt":
        """Fit slope and offset."""
        features_N2 = np.stack([log_odds(predicted_N), np.ones(len(predicted_N))], axis=1)
        slope, offset = fit_logistic(features_N2, soft_targets(positive_N), np.array([1.0, 0.0])).tolist()
        if slope <= 0:
            raise CannotFitError("predictions do not rise with the label")
        return cls(slope, offset)

    def apply(self, predicted: np.ndarray) -> np.ndarray:
        """Return sigmoid(slope x log odds + offset)."""
        return scipy.special.expit(self.slope * log_odds(predicted) + self.offset)

    def describe(self) -> str:
        """Return slope and offset."""
        return f"platt, slope {self.slope:.4f}, offset {self.offset:+.4f}"
