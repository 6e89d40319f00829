"""Whether probabilities mean what they say: predicted against observed, in bins of equal mass.

Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015), for the expected
calibration error; bins of equal mass as in Nixon et al., "Measuring Calibration in Deep Learning" (2019). Even of what
is right it is not 0: Roelofs et al., "Mitigating Bias in Calibration Error Estimation" (2022).
"""

from dataclasses import dataclass

import numpy as np

from raysys.evaluation.ordering import Masses

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """The bins that hold something, in ascending order of what was predicted [B]."""

    predicted_B: np.ndarray  # f64, mean prediction
    rate_B: np.ndarray  # f64, share of positives
    counts_B: np.ndarray  # f64, pairs, or their weight

    @property
    def error(self) -> float:
        """Expected calibration error: how far prediction and rate of a bin are apart, as a mean over pairs."""
        weights_B = self.counts_B / self.counts_B.sum()
        return float(weights_B @ np.abs(self.predicted_B - self.rate_B))

    @property
    def floor(self) -> float:
        """The error to be expected if every prediction were right: bins hold only so many pairs.

        It is the mean distance of a normal variable with the deviation of a bin's share of positives.
        """
        weights_B = self.counts_B / self.counts_B.sum()
        variances_B = self.predicted_B * (1 - self.predicted_B) / self.counts_B
        return float(weights_B @ np.sqrt(2 / np.pi * variances_B))


def reliability(masses: Masses, bins: int = BINS) -> Reliability:
    """Return the reliability of probabilities.

    A bin holds 1 / `bins` of the weight, but equal predictions are never parted: their middle says which bin is theirs.
    """
    total_T = np.cumsum(masses.all_T)
    middle_T = total_T - masses.all_T / 2
    cuts = np.searchsorted(middle_T, total_T[-1] * np.arange(1, bins) / bins)
    ends = np.r_[cuts, len(total_T)] - 1
    sums = (total_T, np.cumsum(masses.positive_T), np.cumsum(masses.all_T * masses.scores_T))
    counts_B, positive_B, predicted_B = (np.diff(np.where(ends < 0, 0.0, side[ends]), prepend=0.0) for side in sums)
    held = counts_B > 0
    return Reliability(predicted_B[held] / counts_B[held], positive_B[held] / counts_B[held], counts_B[held])
