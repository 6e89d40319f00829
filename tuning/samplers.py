"""Samplers of Optuna that a search can be interrupted with: all they remember is in the study's storage."""

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tuning.distribution import Params

NUMBER = "number"
"""Attribute of trials: the search's own number, which a trial keeps when it goes on as another one of Optuna's."""
_MOST_REFUSED = 10


class Reseeded(BaseSampler):
    """Another sampler, made anew for every trial: its seed is a function of the search's and of how many came before.

    So the draws of a trial depend on the trials before it alone, not on how often the process began again.
    """

    def __init__(self, seed: int, build: Callable[[int], BaseSampler]) -> None:
        """Take what makes a sampler of a seed."""
        self._seed, self._build = seed, build
        self._number = -1
        self._current: BaseSampler | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the trial's own sampler."""
        self._of(study, trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the trial's own sampler."""
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the trial's own sampler."""
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the trial's own sampler."""
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)

    def _of(self, study: Study, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or trial.number != self._number:
            place = _draws_before(study, trial)
            seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
            self._number, self._current = trial.number, self._build(seed)
        return self._current


def _draws_before(study: Study, trial: FrozenTrial) -> int:
    """Count the trials that were drawn before, without those that an interruption had begun again."""
    trials = study.get_trials(deepcopy=False)[: trial.number + 1]
    again = {other.user_attrs.get(NUMBER): place for place, other in enumerate(trials)}
    count = 0
    for place, other in enumerate(trials[:-1]):
        failed = other.state == TrialState.FAIL
        last = again[other.user_attrs.get(NUMBER)] == place and NUMBER in other.user_attrs
        count += not failed or last
    return count


class WholeSpaceGP(GPSampler):
    """Optuna's, over all parameters of a space, those too that only some trials draw.

    A trial that has not drawn a parameter counts as if it had drawn the middle one: a kernel that sees the kinds tells
    such trials apart (as imputation of inactive parameters does in SMAC; Hutter et al., 2011). Optuna's own would draw
    such parameters at random. What follows ten refused proposals in a row is drawn at random: it learns from complete
    trials alone, of refusals nothing, and may propose nearly the same for ever.
    """

    def __init__(self, domains: Mapping[str, BaseDistribution], seed: int, startup_trials: int) -> None:
        """Take the parameters of the space, the seed, and how many trials come before it learns."""
        super().__init__(seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False)
        self._domains = {name: domain for name, domain in domains.items() if not domain.single()}
        self._middle = {name: _middle(domain) for name, domain in self._domains.items()}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing for it to draw after pruned trials, which with this sampler are those that were refused."""
        before = study.get_trials(deepcopy=False)[: trial.number][-_MOST_REFUSED:]
        if len(before) == _MOST_REFUSED and all(other.state == TrialState.PRUNED for other in before):
            return {}
        return self._domains

    def whole(self, params: Params) -> Params:
        """Return the parameters of a trial, and the middle ones of those that it has not drawn."""
        return self._middle | params

    def _sample_relative_impl(
        self,
        study: Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        whole = [copy.copy(trial) for trial in completed_trials]
        for trial in whole:
            trial.params = self.whole(trial.params)
        return super()._sample_relative_impl(study, whole, running_trials, search_space)


def _middle(domain: BaseDistribution) -> Any:
    if isinstance(domain, CategoricalDistribution):
        return domain.choices[0]
    if isinstance(domain, FloatDistribution | IntDistribution):
        return math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
    raise AssertionError(f"no middle of {domain}")


class PointSampler(BaseSampler):
    """Gives each trial the next of some points that no trial of the study has had; starts again when none is left."""

    def __init__(self, points: Sequence[Params], seed: int) -> None:
        """Take the points, and the seed of their order."""
        self._points = list(points)
        random.Random(seed).shuffle(self._points)
        self._number = -1
        self._point: Params = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: a point is looked up parameter by parameter."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the parameter of the trial's point."""
        if trial.number != self._number:
            self._number, self._point = trial.number, self._next(study, trial)
        if param_name not in self._point:  # what was given fits no point
            self._point = next(point for point in self._points if param_name in point)
        return self._point[param_name]

    def _next(self, study: Study, trial: FrozenTrial) -> Params:
        had = [other.params for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        # Parameters that were given or drawn before decide which points are left.
        fitting = [point for point in self._points if trial.params.items() <= point.items()] or self._points
        return next((point for point in fitting if point not in had), fitting[0])
