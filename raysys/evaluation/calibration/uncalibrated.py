"""No calibration: probabilities as the model gives them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from raysys.component import FrozenConfig
from raysys.evaluation.calibration.calibrator import Calibrator


@dataclass(frozen=True)
class Uncalibrated(Calibrator):
    """Leaves everything as it is."""

    reason: str = ""
    """Why another kind could not be fitted; empty where none was asked for."""

    class Config(FrozenConfig):
        """Probabilities as the model gives them."""

        kind: Literal["none"] = "none"

    @classmethod
    def fit(cls, config: FrozenConfig, predicted_N: np.ndarray, positive_N: np.ndarray) -> "Uncalibrated":
        """Learn nothing."""
        return cls()

    def apply(self, predicted: np.ndarray) -> np.ndarray:
        """Return what is given."""
        return predicted.astype(np.float64)

    def describe(self) -> str:
        """Return the reason."""
        return f"none: {self.reason}" if self.reason else "none"
