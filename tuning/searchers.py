"""Which configurations are tried. Each kind names a sampler of Optuna; all repeat exactly, however often interrupted.

To add a kind: write a class like those below and add its line to SEARCHERS.
"""

import importlib.util
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raysys.component import FrozenConfig
from raysys.errors import UserError
from tuning.distributions import Choice
from tuning.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


_LEAST_STARTUP, _MOST_STARTUP, _MOST_STARTUP_OF_SEVERAL = 3, 10, 4


@dataclass(frozen=True)
class Sought:
    """What a searcher must know of a search."""

    space: Space
    num_trials: int
    num_objectives: int = 1
    max_concurrent: int = 1


class Searcher(ABC):
    """Says how Optuna draws the parameters of a space."""

    Config: ClassVar[type[FrozenConfig]]
    knows_stopped: ClassVar[bool] = True
    """Whether it learns from trials that Optuna knows as pruned; where not, stopped trials count as complete."""

    def __init__(self, config: FrozenConfig) -> None:
        self.config: Any = config

    def check(self, space: Space, num_objectives: int) -> None:
        """Take note of what is searched, and by how many objectives.

        Raises:
            UserError: the searcher cannot, or lacks a library.
        """
        return

    def most_trials(self, space: Space) -> int | None:
        """Return after how many trials, the base first, nothing is left to try; None if that never happens."""
        return None

    def sampler(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return the sampler of a study: what it draws for a trial depends on the seed, its number and the storage."""
        from tuning.samplers import Reseeded

        return Reseeded(seed, lambda drawn: self.build(drawn, sought))

    @abstractmethod
    def build(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return a sampler for one trial: of a seed, and with no memory but the study's storage."""


class WithStartup(FrozenConfig):
    """What searchers that learn from trials have in common."""

    startup_trials: int | None = Field(None, ge=1)
    """Trials that are drawn at random before it begins to learn; null takes a quarter of num_trials, from 3 to 10, and
    to 4 for gp with several objectives."""


class TPE(Searcher):
    """Tree-structured Parzen estimator: draws where good trials lie dense and poor ones do not (Watanabe, 2023)."""

    class Config(WithStartup):
        """Takes any space and any number of objectives."""

        kind: Literal["tpe"] = "tpe"

    def build(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return Optuna's TPE over all parameters jointly, those of one kind apart where kinds vary.

        With several objectives every parameter is drawn by itself: of few trials, the best two or three say little
        about parameters together (Optuna's benchmarks, and its own choice: optuna/optuna#6766).
        """
        from optuna.samplers import TPESampler

        jointly = sought.num_objectives == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that `group` is experimental
            return TPESampler(
                seed=seed,
                multivariate=jointly,
                group=jointly and sought.space.conditional,
                n_startup_trials=_startup(self.config, sought.num_trials, _MOST_STARTUP),
                # Trials that run count as poor, so that the next one lies elsewhere.
                constant_liar=sought.max_concurrent > 1,
            )


class Random(Searcher):
    """Independent draws: the measure of every other searcher (Bergstra and Bengio, 2012)."""

    class Config(FrozenConfig):
        """Takes any space and any number of objectives."""

        kind: Literal["random"] = "random"

    def build(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return Optuna's random sampler."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


class Grid(Searcher):
    """Every combination once, in an order that the seed shuffles; after the base, and without it."""

    class Config(FrozenConfig):
        """Wants `steps` of every range of real numbers and of every simplex."""

        kind: Literal["grid"] = "grid"

    def check(self, space: Space, num_objectives: int) -> None:
        """Refuse ranges without steps."""
        space.grid()

    def most_trials(self, space: Space) -> int:
        """Return the number of points; one more where the base is none of them."""
        points = space.grid()
        return len(points) + (space.default_params() not in points)

    def sampler(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return a sampler that takes the next point, whatever the number of the trial: nothing is to be reseeded."""
        return self.build(seed, sought)

    def build(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return a sampler over the points of the space: Optuna's own knows no parameters that depend on others."""
        from tuning.samplers import PointSampler

        return PointSampler(sought.space.grid(), seed)


class GaussianProcess(Searcher):
    """A Gaussian process and its expected improvement, of the hypervolume with several objectives; seconds each."""

    knows_stopped = False

    class Config(WithStartup):
        """Takes any space and any number of objectives."""

        kind: Literal["gp"] = "gp"

    def build(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return Optuna's Gaussian process sampler; it knows of trials that run.

        With several objectives it begins early: what it expects of places that it does not know spreads trials already.
        """
        from tuning.samplers import WholeSpaceGP

        most = _MOST_STARTUP if sought.num_objectives == 1 else _MOST_STARTUP_OF_SEVERAL
        startup = _startup(self.config, sought.num_trials, most)
        return WholeSpaceGP(sought.space.domains(), seed, startup)


class CmaEs(Searcher):
    """Covariance matrix adaptation: for hundreds of trials over numbers (Hansen, 2016, arXiv 1604.00772)."""

    knows_stopped = False

    class Config(FrozenConfig):
        """Takes two or more numbers and one objective."""

        kind: Literal["cmaes"] = "cmaes"
        population: int | None = Field(None, ge=3)
        """Trials of a generation; null takes 4 + 3 ln(number of parameters)."""

    def check(self, space: Space, num_objectives: int) -> None:
        """Refuse what has no direction to go in, and want the library."""
        if importlib.util.find_spec("cmaes") is None:
            raise UserError(
                "searcher: cmaes needs the library cmaes, which is not installed; "
                "pip install 'raysys[cmaes]', or take tpe"
            )
        if num_objectives > 1:
            raise UserError(f"searcher: cmaes follows one objective, not {num_objectives}; take tpe, gp or random")
        for path, part in space.parts.items():
            if isinstance(part, Choice):
                raise UserError(f"searcher: cmaes: space.{path} is a choice, and it takes numbers alone; take tpe")
        if sum(len(part.domains(path)) for path, part in space.parts.items()) < 2:
            raise UserError("searcher: cmaes wants two parameters or more; take gp or tpe")

    def build(self, seed: int, sought: Sought) -> "BaseSampler":
        """Return Optuna's CMA-ES, which keeps its state in the study's storage."""
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(seed=seed, popsize=self.config.population, warn_independent_sampling=False)


SEARCHERS: dict[str, type[Searcher]] = {
    "tpe": TPE,
    "random": Random,
    "grid": Grid,
    "gp": GaussianProcess,
    "cmaes": CmaEs,
}
"""Kind -> class."""


def _startup(config: Any, num_trials: int, most: int) -> int:
    """Return how many trials are random: at Optuna's 10, a short search would be random from end to end."""
    given: int | None = config.startup_trials
    return min(most, max(_LEAST_STARTUP, num_trials // 4)) if given is None else given
