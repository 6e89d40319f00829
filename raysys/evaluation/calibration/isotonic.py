"""Isotonic regression: any rising curve, for predictions that are off in another way at every height."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none

from raysys.component import FrozenConfig
from raysys.evaluation.calibration.calibrator import Calibrator, soft_targets


@dataclass(frozen=True)
class Isotonic(Calibrator):
    """The rising curve of least squares, straight between its breakpoints and level outside.

    Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates" (2002).
    """

    predicted: tuple[float, ...]
    """Breakpoints, ascending."""
    calibrated: tuple[float, ...]
    """The curve at each of them."""

    class Config(FrozenConfig):
        """Any rising curve: asks for thousands of pairs, and lets neighbouring predictions tie."""

        kind: Literal["isotonic"] = "isotonic"

    @classmethod
    def fit(cls, config: FrozenConfig, predicted_N: np.ndarray, positive_N: np.ndarray) -> "Isotonic":
        """Fit the curve; of every level part its two ends are kept."""
        distinct_T, codes_N = np.unique(predicted_N.astype(np.float64), return_inverse=True)
        counts_T = np.bincount(codes_N).astype(np.float64)
        means_T = np.bincount(codes_N, soft_targets(positive_N)) / counts_T
        levels_T = scipy.optimize.isotonic_regression(means_T, weights=counts_T).x
        differs = np.diff(levels_T) > 1e-12
        ends_T = np.r_[True, differs] | np.r_[differs, True]
        return cls(tuple(distinct_T[ends_T].tolist()), tuple(levels_T[ends_T].tolist()))

    def apply(self, predicted: np.ndarray) -> np.ndarray:
        """Return the curve at each prediction."""
        return np.interp(predicted.astype(np.float64), self.predicted, self.calibrated)

    def describe(self) -> str:
        """Return the number of breakpoints."""
        return f"isotonic, {len(self.predicted):,} breakpoints"
