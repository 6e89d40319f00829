"""The trials of a search as its plots read them: names and choices short and escaped, values finite."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from raysys.data.webpage import text
from tuning.report import short_names, show

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_LONGEST_CHOICE = 24
_FEWEST = 5


class PlainStudy:
    """A study whose texts may stand in plots, which read some HTML; trials keep their numbers."""

    def __init__(
        self, study: "Study", paths: Iterable[str], objectives: Sequence[str], minimised: Sequence[bool]
    ) -> None:
        """Take a study and the dotted paths of its space; `objectives` are names of what it holds for values."""
        self.objectives = [str(text(name)) for name in objectives]
        self.minimised = list(minimised)
        self._trials = study.get_trials(deepcopy=False)
        found = dict.fromkeys([*paths, *(path for trial in self._trials for path in trial.params)])
        self.short: dict[str, str] = dict(zip(found, short_names(list(found)), strict=True))
        """Of each path, its short name."""
        self.names: dict[str, str] = {path: str(text(name)) for path, name in self.short.items()}
        """The same, escaped: how plots call it."""

    def complete(self) -> "list[FrozenTrial]":
        """Return the trials that have a finite value for every objective."""
        return [trial for trial in self._trials if self._is_complete(trial)]

    def values(self, number: int) -> list[float] | None:
        """Return the values of a complete trial."""
        known = number < len(self._trials) and self._is_complete(self._trials[number])
        return list(self._trials[number].values) if known else None

    def varied(self, numeric: bool = False) -> list[str]:
        """Return the paths that differ between complete trials, or that only some have; `numeric`: only numbers."""
        found = []
        for path in self.names:
            trials = [trial for trial in self.complete() if path in trial.params]
            differ = len({repr(trial.params[path]) for trial in trials}) > 1
            if numeric and differ:
                differ = not any(hasattr(trial.distributions[path], "choices") for trial in trials)
            if differ or (not numeric and 0 < len(trials) < len(self.complete())):
                found.append(path)
        return found

    def about(self, *objectives: int) -> "Study":
        """Return a study of its own of some objectives, by their places."""
        import optuna
        from optuna.study import StudyDirection
        from optuna.trial import TrialState, create_trial

        directions = [StudyDirection.MINIMIZE if self.minimised[at] else StudyDirection.MAXIMIZE for at in objectives]
        made = optuna.create_study(directions=directions)
        for trial in self._trials:
            if not self._is_complete(trial):
                made.add_trial(create_trial(state=TrialState.FAIL))  # keeps the numbers of those behind it
                continue
            distributions = {self.names[path]: _plain(known) for path, known in trial.distributions.items()}
            params = {self.names[path]: _chosen(trial, path) for path in trial.params}
            values = [trial.values[at] for at in objectives]
            made.add_trial(create_trial(values=values, params=params, distributions=distributions))
        return made

    def importances(self, objective: int) -> dict[str, float] | str:
        """Return how much each path decides, most first and 1 in all; or why that cannot be told."""
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        values = [trial.values[objective] for trial in self.complete()]
        if len(values) < _FEWEST:
            return f"Importances take {_FEWEST} complete trials; there {_are(len(values))}."
        if len(set(values)) == 1:
            return "All complete trials have the same value, so no parameter made a difference."
        paths = {self.names[path]: path for path in self.varied()}
        if not paths:
            return "All complete trials have the same parameters."
        evaluator = PedAnovaImportanceEvaluator()  # of the evaluators, the one that takes no forest of trees
        found = get_param_importances(self.about(objective), evaluator=evaluator, params=list(paths))
        if not any(value > 0 and math.isfinite(value) for value in found.values()):
            return "The best trials have the same parameters as the others, so no parameter stands out."
        return {paths[name]: value for name, value in found.items()}

    def _is_complete(self, trial: "FrozenTrial") -> bool:
        values = trial.values or []
        known = len(values) == len(self.objectives) and all(math.isfinite(value) for value in values)
        return trial.state.name == "COMPLETE" and known


def written(value: Any) -> str:
    """Return a value of a config in a form for people, spelled as YAML spells it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return show(value)


class _Label(str):
    """A choice that Optuna shows as it is; of a plain text it would show the repr, with quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _plain(distribution: "BaseDistribution") -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDistribution(_labels(distribution.choices))
    return distribution


def _chosen(trial: "FrozenTrial", path: str) -> Any:
    from optuna.distributions import CategoricalDistribution

    known, value = trial.distributions[path], trial.params[path]
    if isinstance(known, CategoricalDistribution):
        return _labels(known.choices)[int(known.to_internal_repr(value))]
    return value


def _labels(choices: Sequence[Any]) -> list[_Label]:
    shown = [written(choice) for choice in choices]
    short = [name if len(name) <= _LONGEST_CHOICE else f"{name[: _LONGEST_CHOICE - 1]}…" for name in shown]
    names = short if len(set(short)) == len(short) else shown
    if len(set(names)) < len(names):  # the text "true" beside the value
        names = [repr(choice) for choice in choices]
    return [_Label(text(name)) for name in names]


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count or 'none'}"
