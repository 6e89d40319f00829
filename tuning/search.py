"""Runs a search: Optuna proposes, Ray Tune runs the trials and stops the poor ones. Only here does tuning meet ray."""

import contextlib
import itertools
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysys import cluster
from raysys.errors import UserError
from tuning.observer import Observer
from tuning.plan import Plan
from tuning.report import Leaderboard, print_leaderboard, show
from tuning.schedulers import SCHEDULERS
from tuning.study import Study
from tuning.trial import OBJECTIVE, TrialJob, run_trial

if TYPE_CHECKING:
    from ray.tune import Callback, Tuner
    from ray.tune.search.optuna import OptunaSearch


def search(plan: Plan, output: str | Path | None = None) -> tuple[Study, Leaderboard]:
    """Run all trials of a plan into a new study, and write the best config last.

    Raises:
        UserError: the base cannot be trained as the search wants it, or every trial failed.
    """
    base = plan.candidate({})
    study = Study.create(base.root, base.project, output)
    study.write_config(plan.config)
    try:
        board = _run_trials(plan, study)
    except UserError:
        shutil.rmtree(study.path)
        raise
    finally:
        study.sweep()
    print_leaderboard(board)
    best = board.best
    if best is None:
        reasons = "; ".join(sorted({trial.reason or "no reason" for trial in board.trials.values()}))
        raise UserError(f"{plan.where}: every trial failed ({reasons}); see {study.path / 'leaderboard.json'}")
    remark = f"Found by raysys tune: {board.metric} {show(best.value)} in trial {best.number} of {study.path.name}"
    study.write_best(plan.candidate(best.values), remark)
    return study, board


def _run_trials(plan: Plan, study: Study) -> Leaderboard:
    cluster.prepare_environment()
    # Otherwise Tune ends the search on Ctrl-C as if it were complete.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    with cluster.connected(), _quiet():
        _check_cores(plan.config.cpus_per_trial)
        with Observer(plan, study) as observer:
            try:
                _tuner(plan, study, observer).fit()
            finally:
                shutil.rmtree(study.path / "ray", ignore_errors=True)
    return observer.board


def _tuner(plan: Plan, study: Study, observer: Observer) -> "Tuner":
    from ray import tune

    config = plan.config
    job = TrialJob(plan.base, config.metric, str(study.trials))
    numbers = itertools.count()
    scheduler = SCHEDULERS[config.scheduler.kind](config.scheduler)  # type: ignore[attr-defined]
    resources = {"cpu": float(config.cpus_per_trial), "gpu": float(plan.base["training"]["gpu"])}
    return tune.Tuner(
        tune.with_resources(partial(_trial, job=job), resources),
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode="min" if plan.lower_is_better else "max",
            search_alg=_proposals(plan, study),
            scheduler=getattr(tune.schedulers, scheduler.ray_class)(**scheduler.options(plan.most_epochs)),
            num_samples=config.num_trials,
            max_concurrent_trials=config.max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{next(numbers):03d}",
            trial_dirname_creator=str,
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(study.path), verbose=0, callbacks=[_callback(observer)]),
    )


def _trial(values: dict[str, Any], job: TrialJob) -> None:
    from ray import tune

    run_trial(job, int(tune.get_context().get_trial_name()), values, tune.report)


def _proposals(plan: Plan, study: Study) -> "OptunaSearch":
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from ray.tune.search.optuna import OptunaSearch

    config = plan.config
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(study.journal)))
    sampler = optuna.samplers.TPESampler(
        seed=config.seed,
        multivariate=True,
        n_startup_trials=min(10, max(3, config.num_trials // 4)),  # at the default of 10 a short search is random
        constant_liar=config.max_concurrent > 1,
    )
    mode, name = "min" if plan.lower_is_better else "max", study.path.name
    direction = optuna.study.StudyDirection.MINIMIZE if plan.lower_is_better else optuna.study.StudyDirection.MAXIMIZE
    begun = optuna.create_study(storage=storage, study_name=name, direction=direction)
    # Here rather than as points_to_evaluate, which must name every path of the space.
    begun.enqueue_trial(plan.first_values)
    return OptunaSearch(
        space={path: part.domain() for path, part in plan.space.items()},
        metric=OBJECTIVE,
        mode=mode,
        sampler=sampler,
        study_name=name,
        storage=storage,
    )


def _callback(observer: Observer) -> "Callback":
    from ray.tune import Callback

    class Tell(Callback):
        def __init__(self, observer: Observer) -> None:
            self.observer = observer

        def __reduce__(self) -> tuple[Any, ...]:
            return Callback, ()  # Tune pickles its callbacks for a restore that never happens here

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.observer.started(int(str(trial)), trial.config)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            self.observer.reported(int(str(trial)), result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.observer.ended(int(str(trial)))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.observer.failed(int(str(trial)))

    return Tell(observer)


def _check_cores(wanted: int) -> None:
    """Refuse a trial that cannot be placed: Ray would wait for ever. A real cluster may grow, so it is left alone."""
    import ray

    cores = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    if wanted > cores and "RAY_ADDRESS" not in os.environ:
        raise UserError(f"cpus_per_trial: {wanted}, but Ray has {cores} cores here; ask for fewer")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Tune and Optuna log about trials; the leaderboard says it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loggers = [logging.getLogger("ray.tune"), logging.getLogger("ray.tune.execution.tune_controller")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
