"""Why an item is in a list: the events of the history without which its score would be lower.

Each of the newest events is left out once, all at the same time as a batch: what an explanation says is what deleting
the event does. It costs about as much as answering as many questions as the history has events.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from raysys.data.batches import History
from raysys.data.vocabulary import Vocabulary
from serving.answers.question import Reason

_MOST = 3  # reasons of an item


def reasons(
    history: History, row: int, scores_K: np.ndarray, score: Callable[[History, Tensor], np.ndarray], names: Vocabulary
) -> list[tuple[Reason, ...]]:
    """Return, of each of K scored items, the events of a user's history that raise its score most.

    `score` gives the scores [N, K] of the same items after other histories, with the positions [N] that ask.
    """
    count = int(history.mask_BL[row].sum())
    if not count:
        return [()] * len(scores_K)
    effects_NK = scores_K - score(*without_each(history, row, count))
    tokens = names.decode(history.items_BL[row, :count].numpy()).to_pylist()
    return [_largest(effects_NK[:, place], tokens) for place in range(len(scores_K))]


def without_each(history: History, row: int, count: int) -> tuple[History, Tensor]:
    """Return a user's history without its first token, without its second one, ..., and the last position of each."""
    places_NL = torch.arange(max(count - 1, 1)).repeat(count, 1)
    places_NL += places_NL >= torch.arange(count).unsqueeze(1)
    places_NL.clamp_(max=count - 1)
    rows_N1 = torch.full((count, 1), row)
    rows_N = rows_N1.squeeze(1)
    left = History(
        items_BL=history.items_BL[rows_N1, places_NL],
        events_BL=history.events_BL[rows_N1, places_NL],
        times_BL=history.times_BL[rows_N1, places_NL],
        mask_BL=torch.full(places_NL.shape, count > 1),
        users_B=history.users_B[rows_N],
        labels={name: values[rows_N1, places_NL] for name, values in history.labels.items()},
        context=history.context.at(rows_N1, places_NL),
        features=history.features.at(rows_N),
    )
    return left, torch.full((count,), count - 2)


def _largest(effects_N: np.ndarray, tokens: list[str]) -> tuple[Reason, ...]:
    found: dict[str, float] = {}
    for at in np.argsort(-effects_N, kind="stable").tolist():
        if effects_N[at] <= 0 or len(found) == _MOST:
            break
        found.setdefault(tokens[at], float(effects_N[at]))
    return tuple(Reason(item_id, effect) for item_id, effect in found.items())
