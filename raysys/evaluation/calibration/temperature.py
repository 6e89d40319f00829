"""Temperature: the log odds divided by one number, for predictions that are too sure, or not sure enough."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none

from raysys.component import FrozenConfig
from raysys.evaluation.calibration.calibrator import Calibrator, CannotFitError, fit_logistic, log_odds, soft_targets


@dataclass(frozen=True)
class Temperature(Calibrator):
    """sigmoid(log odds / temperature), by maximum likelihood.

    Guo et al., "On Calibration of Modern Neural Networks" (2017).
    """

    temperature: float

    class Config(FrozenConfig):
        """One number for the log odds: a prediction of one half stays where it is."""

        kind: Literal["temperature"] = "temperature"

    @classmethod
    def fit(cls, config: FrozenConfig, predicted_N: np.ndarray, positive_N: np.ndarray) -> "Temperature":
        """Fit the temperature."""
        slope = fit_logistic(log_odds(predicted_N)[:, None], soft_targets(positive_N), np.ones(1)).item()
        if slope <= 0:
            raise CannotFitError("predictions do not rise with the label")
        return cls(1 / slope)

    def apply(self, predicted: np.ndarray) -> np.ndarray:
        """Return sigmoid(log odds / temperature)."""
        return scipy.special.expit(log_odds(predicted) / self.temperature)

    def describe(self) -> str:
        """Return the temperature."""
        return f"temperature {self.temperature:.4f}"
