"""What lists are like beyond being right: how popular, new, surprising and varied their items are, and for how many.

Sources: novelty, diversity, serendipity as in Castells, Hurley and Vargas, "Novelty and Diversity in Recommender
Systems" (Recommender Systems Handbook, 2015); popularity lift: Abdollahpouri et al., "The Connection Between Popularity
Bias, Calibration, and Fairness in Recommendation" (RecSys 2020). Popularity is that of the catalog: events in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raysys.data.catalog import Catalog, vocabularies
from raysys.data.features import list_rows
from raysys.data.schema import FIRST_ITEM
from raysys.evaluation.intervals import PerUser
from raysys.evaluation.outcomes import Outcomes
from raysys.evaluation.protocol import Estimate
from raysys.evaluation.ranking import distinct, hits

_USERS_AT_ONCE = 256  # whose pairs of items fit a CPU's cache


@dataclass(frozen=True)
class ItemFacts:
    """What is asked of every item, by vocabulary index; 0 for PAD and UNKNOWN."""

    events_V: np.ndarray  # f64, history events in training
    percentile_V: np.ndarray  # f64, share of the catalogue with fewer events, items with as many counting half
    information_V: np.ndarray  # f64, bits: -log2 of the share of all training events; an item with none counts as one
    categories_VC: np.ndarray | None  # u64 words, one bit per category value; None without categories

    @staticmethod
    def of(catalog: Catalog) -> "ItemFacts":
        """Read a catalog."""
        events_V = catalog.popularity.astype(np.float64)
        counts = events_V[FIRST_ITEM:]
        _, inverse, ties = np.unique(counts, return_inverse=True, return_counts=True)
        below = np.cumsum(ties) - ties / 2
        percentile_V, information_V = np.zeros(len(events_V)), np.zeros(len(events_V))
        percentile_V[FIRST_ITEM:] = below[inverse] / max(len(counts), 1)
        information_V[FIRST_ITEM:] = np.log2(max(counts.sum(), 1.0)) - np.log2(np.maximum(counts, 1))
        return ItemFacts(events_V, percentile_V, information_V, _category_bits(catalog))

    @property
    def num_items(self) -> int:
        """Real items."""
        return len(self.events_V) - FIRST_ITEM


def per_list(
    outcomes: Outcomes, facts: ItemFacts, popular_UK: np.ndarray, depths: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return what is measured of each list [U]; NaN where a list is empty, or has no two items with categories.

    novelty@k: mean self-information of the items, in bits.
    popularity@k: mean percentile of the items in the catalogue's popularity; 1 is the most popular item.
    serendipity@k: share of the held-out items that are hit and do not stand in the popularity list of the same user.
    diversity@k: mean over pairs of items of 1 - Jaccard similarity of their categories; only where items have some.
    """
    items_UK, metrics = outcomes.items_UK, {}
    real_UK = items_UK >= FIRST_ITEM
    right_UK = hits(items_UK, outcomes.relevant_rows, outcomes.relevant_items_N)
    wanted_U = _distinct_counts(outcomes)
    apart = None if facts.categories_VC is None else _diversity(items_UK, facts.categories_VC, depths)
    for k in depths:
        shown_U = real_UK[:, :k].sum(axis=1)
        for name, values_V in (("novelty", facts.information_V), ("popularity", facts.percentile_V)):
            metrics[f"{name}@{k}"] = _divide((values_V[items_UK[:, :k]] * real_UK[:, :k]).sum(axis=1), shown_U)
        surprising_UK = right_UK[:, :k] & ~_contained(items_UK[:, :k], popular_UK[:, :k])
        metrics[f"serendipity@{k}"] = _divide(surprising_UK.sum(axis=1), wanted_U)
        if apart is not None:
            metrics[f"diversity@{k}"] = apart[k]
    return metrics


def popularity_lift(outcomes: Outcomes, facts: ItemFacts, k: int) -> PerUser:
    """Return the popularity lift at k over users with a profile: (shown - profile) / profile.

    Both are means over users of the mean training events of the items: of those shown, and of those the user had.
    0 is as popular as what users choose themselves, 1 twice as popular.
    """
    real_UK = outcomes.items_UK[:, :k] >= FIRST_ITEM
    shown_U = _divide((facts.events_V[outcomes.items_UK[:, :k]] * real_UK).sum(axis=1), real_UK.sum(axis=1))
    return PerUser(_divide(shown_U, outcomes.profile_U) - 1, outcomes.profile_U)


def over_all_lists(items_UK: np.ndarray, num_items: int, k: int) -> dict[str, Estimate]:
    """Return what is no mean over users, so without interval.

    coverage@k: share of the catalogue that stands in somebody's first k.
    gini@k: Gini coefficient of how often each item of the catalogue is shown: 0 all alike, 1 one item only.
    """
    shown_V = np.bincount(items_UK[:, :k].reshape(-1), minlength=num_items + FIRST_ITEM)[FIRST_ITEM:]
    values = {"coverage": coverage(items_UK, k, num_items), "gini": gini(shown_V)}
    return {f"{name}@{k}": Estimate(value, value, value, len(items_UK)) for name, value in values.items()}


def coverage(items_UK: np.ndarray, k: int, num_items: int) -> float:
    """Return the share of the catalogue that stands in somebody's first k."""
    shown = np.unique(items_UK[:, :k])
    return float((shown >= FIRST_ITEM).sum() / max(num_items, 1))


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient: sum over i of (2 i - n - 1) x_i / (n sum x), x ascending; NaN of nothing."""
    total, num = counts.sum(), len(counts)
    if not total:
        return float("nan")
    return float((2 * np.arange(1, num + 1) - num - 1) @ np.sort(counts) / (num * total))


def _diversity(items_UK: np.ndarray, bits_VC: np.ndarray, depths: Sequence[int]) -> dict[int, np.ndarray]:
    later, earlier = np.tril_indices(min(items_UK.shape[1], max(depths)), -1)  # pairs of the first k stand first
    sizes_V, bits_CV = np.bitwise_count(bits_VC).sum(axis=1, dtype=np.int32), np.ascontiguousarray(bits_VC.T)
    parts: dict[int, list[np.ndarray]] = {k: [np.zeros(0)] for k in depths}
    for start in range(0, len(items_UK), _USERS_AT_ONCE):
        items = items_UK[start : start + _USERS_AT_ONCE]
        bits_CUK, sizes_UK = bits_CV[:, items], sizes_V[items]
        shared_UP = np.zeros((len(items), len(later)), np.int32)
        for word in range(bits_CUK.shape[0]):
            shared_UP += np.bitwise_count(bits_CUK[word][:, later] & bits_CUK[word][:, earlier])
        known_UP = (sizes_UK[:, later] > 0) & (sizes_UK[:, earlier] > 0)
        joined_UP = np.maximum(sizes_UK[:, later] + sizes_UK[:, earlier] - shared_UP, 1)
        apart_UP = known_UP - shared_UP / joined_UP  # nothing is shared where nothing is known
        for k in depths:
            pairs = k * (k - 1) // 2
            parts[k].append(_divide(apart_UP[:, :pairs].sum(axis=1), known_UP[:, :pairs].sum(axis=1)))
    return {k: np.concatenate(values) for k, values in parts.items()}


def _category_bits(catalog: Catalog) -> np.ndarray | None:
    """Return each item's categories as bits, the values of all category columns side by side [V, words]."""
    values = vocabularies(catalog.table)
    total = sum(len(own) for own in values.values())
    if not total:
        return None
    flags = np.zeros((catalog.table.num_rows + FIRST_ITEM, -(-total // 64)), np.uint64)
    first = 0
    for name, own in values.items():
        column = catalog.table[name].combine_chunks()
        is_list = pa.types.is_list(column.type)
        rows = list_rows(column) if is_list else np.arange(len(column))
        codes = (column.flatten() if is_list else column).indices
        known = codes.is_valid().to_numpy(zero_copy_only=False)
        bit = first + codes.drop_null().to_numpy().astype(np.int64)
        words = np.left_shift(np.uint64(1), (bit % 64).astype(np.uint64))
        np.bitwise_or.at(flags, (rows[known] + FIRST_ITEM, bit // 64), words)
        first += len(own)
    return flags


def _contained(items_UK: np.ndarray, others_UK: np.ndarray) -> np.ndarray:
    """Return which items stand in the other list of the same row, at any place [U, K] bool."""
    inside_UK = np.zeros(items_UK.shape, bool)
    for place in range(others_UK.shape[1]):  # one place at a time: memory O(U x K)
        inside_UK |= items_UK == others_UK[:, place : place + 1]
    return inside_UK


def _distinct_counts(outcomes: Outcomes) -> np.ndarray:
    """Return how many items were held out from each user [U]; those that training never saw count one by one."""
    rows_N, _ = distinct(outcomes.relevant_rows, outcomes.relevant_items_N)
    return np.bincount(rows_N, minlength=len(outcomes.users_U))


def _divide(over_U: np.ndarray, under_U: np.ndarray) -> np.ndarray:
    return np.divide(over_U, under_U, out=np.full(len(over_U), np.nan), where=under_U > 0)
