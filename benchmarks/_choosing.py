"""Lets samplers of Optuna choose among given configurations instead of proposing new ones, each by its own measure.

As in benchmarks of recorded configurations (HPO-B: Pineda Arango et al., 2021, arXiv 2106.06257). A Gaussian process
takes the configuration where its acquisition function is highest, TPE the one whose parameters have the highest ratios
of densities, over all that it models; what both draw at random, and random search always, is drawn evenly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, TPESampler

from tuning.samplers import Reseeded, WholeSpaceGP

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]


class Chooser:
    """Hooks into where Optuna's samplers look for the best, and remembers how good each configuration is to them."""

    def __init__(self, seed: int, domains: dict[str, BaseDistribution]) -> None:
        self.domains, self.random = domains, random.Random(seed)
        self.params: Sequence[Params] = ()
        self.scores: np.ndarray | None = None

    def sampler(self, own: Reseeded) -> Reseeded:
        """Return the sampler of a search, hooked."""
        return Reseeded(own._seed, lambda drawn: self._hooked(own._build(drawn)))

    def choose(self) -> int:
        """Return the place of the configuration that the sampler would have, after it proposed, and forget why."""
        scores, self.scores = self.scores, None
        return self.random.randrange(len(self.params)) if scores is None else int(np.argmax(scores))

    def _hooked(self, sampler: BaseSampler) -> BaseSampler:
        if isinstance(sampler, WholeSpaceGP):
            sampler._optimize_acqf = partial(self._best, sampler.whole)  # type: ignore[method-assign]
        elif isinstance(sampler, TPESampler):
            own = sampler._compute_acquisition_func

            def noted(samples: Any, mpe_below: Any, mpe_above: Any) -> np.ndarray:
                self._note(samples, mpe_below, mpe_above)
                return own(samples, mpe_below, mpe_above)

            sampler._compute_acquisition_func = noted  # type: ignore[method-assign]
        return sampler

    def _best(self, whole: Callable[[Params], Params], acqf: Any, best_params: Any) -> np.ndarray:
        params = [whole(own) for own in self.params]
        points = acqf.search_space.get_normalized_params([None] * len(params), params)
        self.scores = acqf.eval_acqf_no_grad(points)
        best: np.ndarray = points[np.argmax(self.scores)]
        return best

    def _note(self, samples: Any, below: Any, above: Any) -> None:
        """Add what some parameters say of the configurations that have them."""
        places = [place for place, params in enumerate(self.params) if samples.keys() <= params.keys()]
        points = {
            name: np.array([self.domains[name].to_internal_repr(self.params[place][name]) for place in places])
            for name in samples
        }
        if self.scores is None:
            self.scores = np.zeros(len(self.params))
        if places:
            self.scores[places] += below.log_pdf(points) - above.log_pdf(points)
