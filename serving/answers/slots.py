"""From scored candidates to the slots of a list: one after the other, by rules, diversity and, where wanted, chance.

Diversity is maximal marginal relevance (Carbonell and Goldstein, "The use of MMR, diversity-based reranking", SIGIR
1998) over item vectors. Chance draws without replacement, in proportion to exp(value / temperature) of what is still
there (Plackett and Luce), so that the probability of each choice given those before it is known exactly.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.rules import Walk


@dataclass(frozen=True)
class Filled:
    """Places of candidates, by slot, and the probability of each given those before it."""

    places: list[int]
    propensities: list[float]


@dataclass(frozen=True)
class Chance:
    """How a list is drawn."""

    temperature: float
    seed: str

    def generator(self) -> np.random.Generator:
        """Return draws that are a function of the seed."""
        return np.random.default_rng(int.from_bytes(hashlib.blake2b(self.seed.encode(), digest_size=16).digest()))


def fill(
    scores_K: np.ndarray,
    k: int,
    walks: Sequence[Walk] = (),
    diversity: float = 0.0,
    vectors_KD: np.ndarray | None = None,
    chance: Chance | None = None,
) -> Filled:
    """Fill up to k slots from candidates, best first, with finite scores; fewer where rules leave fewer.

    `vectors_KD` have length 1 and are needed for diversity. Scores count by where they lie between the least and the
    largest of the candidates, so that diversity and temperature mean the same whatever the scores are.
    """
    if not walks and not diversity and chance is None:
        count = min(k, len(scores_K))
        return Filled(list(range(count)), [1.0] * count)
    spread = float(np.ptp(scores_K)) if len(scores_K) else 0.0
    relevance_K = (scores_K - scores_K.min()) / spread if spread else np.zeros(len(scores_K))
    value_K, nearest_K = (1 - diversity) * relevance_K, np.full(len(scores_K), -1.0)
    generator = None if chance is None else chance.generator()
    taken_K = np.zeros(len(scores_K), bool)
    filled = Filled([], [])
    while len(filled.places) < k:
        place, propensity = _forced(walks, len(filled.places) + 1), 1.0
        if place is None:
            open_K = np.flatnonzero(~_closed(taken_K, walks))
            if len(open_K):
                place, propensity = _choose(open_K, value_K, chance, generator)
            else:
                place = _forced(walks, k)  # what waits for a later slot than the list will have
        if place is None:
            break
        filled.places.append(place)
        filled.propensities.append(propensity)
        taken_K[place] = True
        for walk in walks:
            walk.took(place)
        if diversity and vectors_KD is not None:
            nearest_K = np.maximum(nearest_K, vectors_KD @ vectors_KD[place])
            value_K = (1 - diversity) * relevance_K - diversity * nearest_K
    return filled


def _forced(walks: Sequence[Walk], slot: int) -> int | None:
    return next((place for walk in walks if (place := walk.forced(slot)) is not None), None)


def _closed(taken_K: np.ndarray, walks: Sequence[Walk]) -> np.ndarray:
    closed_K = taken_K.copy()
    for walk in walks:
        if (own := walk.closed()) is not None:
            closed_K |= own
    return closed_K


def _choose(
    open_K: np.ndarray, value_K: np.ndarray, chance: Chance | None, generator: np.random.Generator | None
) -> tuple[int, float]:
    values = value_K[open_K]
    if chance is None or generator is None:
        return int(open_K[values.argmax()]), 1.0
    weights = np.exp((values - values.max()) / chance.temperature)
    shares = weights / weights.sum()
    at = min(int(np.searchsorted(np.cumsum(shares), generator.random(), side="right")), len(shares) - 1)
    return int(open_K[at]), float(shares[at])
