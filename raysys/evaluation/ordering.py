"""How well scores order pairs: AUC, AUC within users, ordered pairs of any labels, lift of the top decile. All exact.

Legend: N pairs, T distinct scores, U users. Ties of scores count half, or in proportion.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none

_GROUPS = 3840  # 15 x 256: the bins of reliability are whole groups


@dataclass(frozen=True)
class Masses:
    """What weighs at each distinct score, in ascending order."""

    scores_T: np.ndarray  # f64
    all_T: np.ndarray  # f64, weight of the pairs with this score
    positive_T: np.ndarray  # f64, weight of the positive ones among them


@dataclass(frozen=True)
class ByScore:
    """Pairs grouped by their scores, once for many weightings of the users behind them."""

    scores_T: np.ndarray  # f64, ascending; the mean of a group
    all_TU: "scipy.sparse.csr_array"  # pairs of each user in each group
    positive_TU: "scipy.sparse.csr_array"  # the positive ones among them

    @staticmethod
    def of(scores_N: np.ndarray, positive_N: np.ndarray, owners_N: np.ndarray, num_users: int) -> "ByScore":
        """Group pairs, owners numbered 0 to U - 1.

        A group is one score, or, where there are very many, neighbouring scores of equal mass: then what is made of
        the masses is right to about 1 / 4000, enough for an interval.
        """
        distinct, group_N = np.unique(scores_N, return_inverse=True)
        if len(distinct) > _GROUPS:
            counts = np.bincount(group_N)
            middle = np.cumsum(counts) - (counts + 1) // 2
            group_N = np.unique(middle * _GROUPS // len(scores_N), return_inverse=True)[1][group_N]
        counts_T = np.bincount(group_N)
        scores_T = np.bincount(group_N, scores_N) / counts_T
        shape, ones_N = (len(counts_T), num_users), np.ones(len(scores_N))
        parts = ((ones_N, group_N, owners_N), (ones_N[positive_N], group_N[positive_N], owners_N[positive_N]))
        tables = (scipy.sparse.coo_array((ones, (groups, owners)), shape).tocsr() for ones, groups, owners in parts)
        return ByScore(scores_T, *tables)

    def masses(self, weights_RU: np.ndarray) -> Iterator[Masses]:
        """Weigh each pair as its user, once for each row of weights."""
        weights_UR = np.ascontiguousarray(weights_RU.T, np.float64)
        for all_T, positive_T in zip((self.all_TU @ weights_UR).T, (self.positive_TU @ weights_UR).T, strict=True):
            yield Masses(self.scores_T, all_T, positive_T)


def masses_of(scores_N: np.ndarray, positive_N: np.ndarray) -> Masses:
    """Return the masses of pairs that weigh 1 each."""
    order_N = np.argsort(scores_N, kind="stable")
    sorted_N = scores_N[order_N]
    firsts_T = np.flatnonzero(_begins(sorted_N))
    all_T = np.diff(np.append(firsts_T, len(sorted_N))).astype(np.float64)
    positive_T = np.add.reduceat(positive_N[order_N].astype(np.float64), firsts_T)
    return Masses(sorted_N[firsts_T].astype(np.float64), all_T, positive_T)


def auc(masses: Masses) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN with one class only.

    sum over positives of weight x (weight of negatives below + half of that of negatives that tie) / (both weights).
    """
    low_T = masses.all_T - masses.positive_T
    high, low = masses.positive_T.sum(), low_T.sum()
    wins = masses.positive_T @ (np.cumsum(low_T) - low_T / 2)
    return float(wins / (high * low)) if high and low else float("nan")


def top_decile_lift(masses: Masses) -> float:
    """Return the rate of positives in the tenth of the weight that scores highest over that of all; NaN without any.

    A score that the edge of the tenth falls on counts in proportion, as if its ties were broken at random.
    """
    all_T, positive_T = np.cumsum(masses.all_T), np.cumsum(masses.positive_T)
    if not len(all_T) or not positive_T[-1]:
        return float("nan")
    below = np.interp(0.9 * all_T[-1], np.r_[0.0, all_T], np.r_[0.0, positive_T])
    return float((positive_T[-1] - below) / (0.1 * positive_T[-1]))


def auc_per_user(scores_N: np.ndarray, positive_N: np.ndarray, owners_N: np.ndarray, num_users: int) -> np.ndarray:
    """Return the AUC among the pairs of each user [U] f64, owners numbered 0 to U - 1; NaN with one class only."""
    order_N = np.lexsort((scores_N, owners_N))
    owners_N, positive_N = owners_N[order_N], positive_N[order_N]
    firsts_T = np.flatnonzero(_begins(owners_N) | _begins(scores_N[order_N]))
    high_T, low_T = (np.add.reduceat(side.astype(np.float64), firsts_T) for side in (positive_N, ~positive_N))
    high_U, low_U = (np.bincount(owners_N, side, num_users) for side in (positive_N, ~positive_N))
    owners_T = owners_N[firsts_T]
    below_T = np.cumsum(low_T) - low_T - (np.cumsum(low_U) - low_U)[owners_T]
    wins_U = np.bincount(owners_T, high_T * (below_T + low_T / 2), num_users)
    return np.divide(wins_U, high_U * low_U, out=np.full(num_users, np.nan), where=high_U * low_U > 0)


def rightly_ordered(predicted_N: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each pair how many of those with another label it is ordered rightly to, and how many these are [N].

    Predictions that tie count half. With 0/1 labels the ratio of the sums is AUC. O(N log N).
    """
    order_N = np.lexsort((predicted_N, labels_N))
    predicted_N, labels_N = predicted_N[order_N], labels_N[order_N]
    same_label_N = _ties(_begins(labels_N))
    same_both_N = _ties(_begins(labels_N) | _begins(predicted_N))
    by_prediction_N = np.argsort(predicted_N, kind="stable")  # stable: ties are no inversions
    same_prediction_N = np.empty_like(same_both_N)
    same_prediction_N[by_prediction_N] = _ties(_begins(predicted_N[by_prediction_N]))
    ranks_N = np.empty(len(order_N), np.int64)
    ranks_N[by_prediction_N] = np.arange(len(order_N))
    comparable_N = len(order_N) - same_label_N
    right_N = comparable_N - inversions(ranks_N) - (same_prediction_N - same_both_N) / 2
    found = np.empty((2, len(order_N)))
    found[:, order_N] = right_N, comparable_N
    return found[0], found[1]


def inversions(ranks_N: np.ndarray) -> np.ndarray:
    """Return of each place of a permutation of 0 to N - 1 how many inversions it takes part in [N] i64.

    Merge counting, the other way round: values are parted by their bits from the highest on, each half in the order of
    places. Two values part at their highest bit that differs; they are inverted if the larger one stands first.
    """
    size = 1 << max(len(ranks_N) - 1, 0).bit_length()
    values = np.concatenate([ranks_N, np.arange(len(ranks_N), size)])  # what fills up is in order already
    found = np.zeros(size, np.int64)  # by value
    half = size // 2
    while half:
        is_high = (values & half).astype(bool)  # every block of 2 x half places holds as many low values as high ones
        lows, highs = np.flatnonzero(~is_high), np.flatnonzero(is_high)
        rest = np.arange(size // 2)
        before = rest - rest % half  # low (or high) values in the blocks before
        found[values[lows]] += lows - rest - before
        found[values[highs]] += half - (highs - rest - before)
        parted = (values[lows].reshape(-1, 1, half), values[highs].reshape(-1, 1, half))
        values, half = np.concatenate(parted, axis=1).reshape(-1), half // 2
    return found[ranks_N]


def _begins(sorted_N: np.ndarray) -> np.ndarray:
    """Return where a value differs from the one before it [N] bool."""
    begins_N = np.ones(len(sorted_N), bool)
    begins_N[1:] = sorted_N[1:] != sorted_N[:-1]
    return begins_N


def _ties(begins_N: np.ndarray) -> np.ndarray:
    """Return how many stand in the group of each [N]."""
    firsts = np.flatnonzero(begins_N)
    sizes = np.diff(np.append(firsts, len(begins_N)))
    return np.repeat(sizes, sizes)
