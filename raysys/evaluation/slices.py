"""Parts of an evaluation: users by how much is known of them, held-out items by how popular they were in training."""

from collections.abc import Sequence

import numpy as np

from raysys.data.schema import FIRST_ITEM
from raysys.evaluation.beyond import ItemFacts
from raysys.evaluation.outcomes import Outcomes
from raysys.evaluation.ranking import ranking_metrics

ACTIVITY = (0, 1, 5, 10, 20, 50)
"""Known history events from which a slice of users begins: 0, 1-4, 5-9, 10-19, 20-49, 50+."""
ITEM_SLICES = ("item head", "item middle", "item tail", "item never seen")
"""Held-out items: those that make the first, second and last third of the training events, the most popular first, and
those that training never saw, which are always missed."""

_SLICED = ("ndcg", "recall")


def slice_metrics(outcomes: Outcomes, facts: ItemFacts, depths: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """Return NDCG and recall [U] of every slice that has users, NaN for the users outside it.

    In a slice of items, only these items count as held out, so a user may be in several; users without are outside.
    """
    names = [f"{metric}@{k}" for k in depths for metric in _SLICED]
    bands_U = np.searchsorted(ACTIVITY, outcomes.known_U, side="right") - 1
    found = {}
    for band in np.unique(bands_U):
        inside_U = bands_U == band
        full = {name: outcomes.per_user[f"{outcomes.prefix}.{name}"] for name in names}
        found[_activity_name(band)] = {name: np.where(inside_U, values, np.nan) for name, values in full.items()}
    rows_N, part_N = outcomes.relevant_rows, item_slices(facts)[outcomes.relevant_items_N]
    for part in np.unique(part_N):
        rows = rows_N[part_N == part]
        metrics = ranking_metrics(outcomes.items_UK, rows, outcomes.relevant_items_N[part_N == part], depths)
        inside_U = np.isin(np.arange(len(outcomes.users_U)), rows)
        found[ITEM_SLICES[part]] = {name: np.where(inside_U, metrics[name], np.nan) for name in names}
    return found


def item_slices(facts: ItemFacts) -> np.ndarray:
    """Return the place in ITEM_SLICES of every vocabulary index [V].

    An item is in the third in which its events begin, when items are put in the order of their training events, ties
    in vocabulary order. UNKNOWN stands for every item that training never saw.
    """
    counts = facts.events_V[FIRST_ITEM:]
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    parts_V = np.full(len(facts.events_V), len(ITEM_SLICES) - 1)
    parts_V[FIRST_ITEM + order] = np.minimum(before * 3 // max(counts.sum(), 1), 2).astype(np.int64)
    return parts_V


def _activity_name(band: int) -> str:
    first, following = ACTIVITY[band], ACTIVITY[band + 1 : band + 2]
    if not following:
        return f"history {first}+"
    return f"history {first}" if following[0] == first + 1 else f"history {first}-{following[0] - 1}"
