"""Runs a search: Optuna proposes, Ray Tune runs the trials and stops the poor ones. Only here does tuning meet ray."""

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysys import cluster
from raysys.component import kind_of
from raysys.errors import UserError
from raysys.progress import console
from tuning.observer import Observer
from tuning.plan import Plan
from tuning.report import Leaderboard, print_leaderboard, show
from tuning.schedulers import SCHEDULERS
from tuning.study import Study
from tuning.summary import write_page
from tuning.trial import DIED, OBJECTIVE, TrialJob, read_failure, read_reports, run_trial, trial_directory
from tuning.trials import Trials, add_earlier, begin_record, open_record
from tuning.verify import on_a_share, verify

if TYPE_CHECKING:
    from ray.tune import Tuner
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

_RESTARTS = 2
"""Of a trial whose process dies: it goes on from its last checkpoint."""


def search(
    plan: Plan, output: str | Path | None = None, warm_start: str | Path | None = None
) -> tuple[Study, Leaderboard]:
    """Run all trials of a plan in a new study, and write the best config last.

    `warm_start` is the directory of an earlier study, whose trials the searcher learns from.

    Raises:
        UserError: the base cannot be trained as the search wants it, every trial failed, or the earlier study does not
            fit.
    """
    base = plan.candidate({})
    study = Study.create(base.root, base.project, output)
    study.write_config(plan.config)
    try:
        with study.alone(), _quiet():
            opened = begin_record(plan, study)
            opened.set_user_attr("objectives", list(plan.objectives.metrics))
            if warm_start is not None:
                added = add_earlier(plan, opened, warm_start)
                console.print(f"  {added} trials of {warm_start} are known from before", markup=False)
            return _run(plan, study)
    except UserError:
        if not study.leaderboard.is_file():  # nothing was tried
            shutil.rmtree(study.path)
        raise


def resume(plan: Plan, study: Study) -> tuple[Study, Leaderboard]:
    """Go on with an interrupted search: what has ended stays, what was under way goes on from its checkpoints.

    Raises:
        UserError: another process is at it.
    """
    with study.alone(), _quiet():
        return _run(plan, study)


def _run(plan: Plan, study: Study) -> tuple[Study, Leaderboard]:
    trials = _run_trials(plan, study)
    board = trials.board
    if trials.fatal is not None:
        if not board.ended():
            study.leaderboard.unlink(missing_ok=True)
        raise UserError(f"{plan.where}: {trials.fatal}")
    print_leaderboard(board)
    if not board.ended():
        reasons = "; ".join(sorted({trial.reason or "no reason" for trial in board.trials.values()}))
        raise UserError(f"{plan.where}: every trial failed ({reasons}); see {study.leaderboard}")
    if plan.config.dataset_fraction < 1:
        verify(plan, study, board, _job(plan, study))
        _write_page(plan, study, trials)
    best = board.best
    assert best is not None
    pairs = zip(plan.objectives.metrics, best.verified or best.objectives or (), strict=True)
    told = ", ".join(f"{name} {show(value)}" for name, value in pairs)
    remark = f"Found by raysys tune: {told} in trial {best.number} of {study.path.name}"
    study.write_best(plan.candidate(best.values), remark)
    return study, board


def _run_trials(plan: Plan, study: Study) -> Trials:
    cluster.prepare_environment()
    # Otherwise Tune ends the search on Ctrl-C as if it were complete.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # A trial that failed before its first epoch ends without a metric.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    with cluster.connected(), Observer(plan, study) as observer:
        _check_room(plan)
        trials = Trials(plan, open_record(plan, study), observer.changed)
        observer.watch(trials.board)
        job = on_a_share(plan, _job(plan, study))
        shutil.rmtree(study.path / "ray", ignore_errors=True)
        try:
            if trials.left:
                _tuner(plan, study, trials, job).fit()
        finally:
            shutil.rmtree(study.path / "ray", ignore_errors=True)
            for number in trials.ended_numbers:  # a trial that was stopped may have been writing still
                study.sweep(number)
            study.write_leaderboard(trials.board)
            _write_page(plan, study, trials)
    if reason := trials.stopper.reason():
        console.print(f"  the search ends: {reason}", markup=False)
    return trials


def _write_page(plan: Plan, study: Study, trials: Trials) -> None:
    try:
        write_page(plan, study, trials, _job(plan, study))
    except Exception as error:  # a night's search is worth more than its picture
        console.print(f"  {study.path / 'tuning.html'} could not be written: {error!r}", markup=False)


def _job(plan: Plan, study: Study) -> TrialJob:
    return TrialJob(plan.base, plan.metric, plan.objectives.metrics, str(study.trials), _resources(plan))


def _resources(plan: Plan) -> dict[str, float]:
    """Return what each process that trains takes."""
    gpus = {"GPU": plan.config.gpus_per_trial} if plan.base["training"]["gpu"] else {}
    return {"CPU": float(plan.config.cpus_per_trial), **gpus}


def _tuner(plan: Plan, study: Study, trials: Trials, job: TrialJob) -> "Tuner":
    from ray import tune

    config, alone = plan.config, plan.base["training"]["num_workers"] == 1
    # A trial with workers waits for them, without cores of its own. Tune wants to be asked for something.
    resources = tune.PlacementGroupFactory([job.resources if alone else {"memory": 1.0}])
    return tune.Tuner(
        tune.with_resources(partial(_trial, job=job), resources),
        tune_config=tune.TuneConfig(
            search_alg=_proposals(study, trials, "min" if plan.lower_is_better else "max"),
            scheduler=_informed(scheduler_of(plan), plan, job, trials.board),
            num_samples=config.num_trials,
            max_concurrent_trials=config.max_concurrent,
            reuse_actors=alone,  # the workers of a trial that is stopped end with its process
            trial_name_creator=lambda trial: f"{trial.config['number']:03d}",
            trial_dirname_creator=str,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(study.path),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_RESTARTS),
        ),
    )


def _trial(config: dict[str, Any], job: TrialJob) -> None:
    from ray import tune

    try:
        run_trial(job, config["number"], config["values"], tune.report)
    except Exception:  # recorded beside the trial; only a process that dies is begun again
        tune.report({"failed": True})  # Tune prints of trials that have reported nothing


def _proposals(study: Study, trials: Trials, mode: str) -> "Searcher":
    from ray.tune.search import Searcher

    class Proposals(Searcher):
        """Between Ray Tune, which knows trials by ids of its own, and the record of trials."""

        def __init__(self) -> None:
            super().__init__(metric=OBJECTIVE, mode=mode)
            self.numbers: dict[str, int] = {}

        def __reduce__(self) -> tuple[Any, ...]:
            return Searcher, ()  # Tune pickles its parts for a restore that never happens here

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            begun = trials.begin()
            if begun is None:
                return Searcher.FINISHED  # type: ignore[return-value]
            self.numbers[trial_id] = begun.number
            return {"number": begun.number, "values": begun.values}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            number = self.numbers[trial_id]
            if trials.is_news(number, result):
                trials.reported(number, _unflattened(result))

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            number = self.numbers[trial_id]
            if result:  # Tune hands the last report over here
                self.on_trial_result(trial_id, result)
            failure = read_failure(trial_directory(study.trials, number))
            trials.ended(number, failure or (DIED if error else None))
            study.sweep(number)

        def save(self, checkpoint_path: str) -> None:
            """Write nothing: the study is the record."""

        def restore(self, checkpoint_path: str) -> None:
            raise NotImplementedError("a search goes on in a new Tuner")

    return Proposals()


def _unflattened(result: Mapping[str, Any]) -> dict[str, Any]:
    """Put the list of objectives together again, which Ray hands on item by item."""
    if "objectives" in result:
        return dict(result)
    places = sorted(int(name.rpartition("/")[2]) for name in result if name.startswith("objectives/"))
    return {**result, "objectives": [result[f"objectives/{place}"] for place in places]}


def scheduler_of(plan: Plan) -> "TrialScheduler":
    """Return the scheduler of a new search."""
    from ray import tune

    kind = SCHEDULERS[kind_of(plan.config.scheduler)](plan.config.scheduler)
    options = kind.options(plan.most_epochs)
    if kind.needs_one_objective:
        options |= {"metric": OBJECTIVE, "mode": "min" if plan.lower_is_better else "max"}
    made: TrialScheduler = getattr(tune.schedulers, kind.ray_class)(**options)
    return made


def _informed(scheduler: "TrialScheduler", plan: Plan, job: TrialJob, board: Leaderboard) -> "TrialScheduler":
    """Tell a scheduler all that the trials which have ended had reported."""
    if SCHEDULERS[kind_of(plan.config.scheduler)].needs_one_objective:
        for record in sorted(board.ended(), key=lambda record: record.number):
            trial: Any = _Ended(str(record.number))
            nobody: Any = None  # who runs the trials: it is not asked
            reports = read_reports(job, record.number, record.values, record.epochs)
            scheduler.on_trial_add(nobody, trial)
            for report in reports:
                scheduler.on_trial_result(nobody, trial, report)
            scheduler.on_trial_complete(nobody, trial, reports[-1])
    return scheduler


@dataclass(frozen=True)
class _Ended:
    """As much of a trial as schedulers look at."""

    trial_id: str


def _check_room(plan: Plan) -> None:
    """Refuse trials that cannot be placed: Ray would wait for ever. A real cluster may grow, so it is left alone.

    Of single processes one must fit, for the others wait in Tune. Of trials with workers all that may run at a time
    must: they have begun when they ask for their workers.
    """
    import ray

    workers, has = plan.base["training"]["num_workers"], ray.cluster_resources()  # type: ignore[no-untyped-call]
    for resource, (name, unit) in {"CPU": ("cpus", "cores"), "GPU": ("gpus", "GPUs")}.items():
        each, there = _resources(plan).get(resource, 0.0), has.get(resource, 0.0)
        wanted = each if workers == 1 else each * workers * plan.config.max_concurrent
        if wanted <= there or "RAY_ADDRESS" in os.environ:
            continue
        told = f"{name}_per_trial: {each:g}"
        if workers > 1:
            told += f" for each of {workers} workers in max_concurrent: {plan.config.max_concurrent} takes {wanted:g}"
        raise UserError(f"{told}, but Ray has {there:g} {unit} here; ask for fewer")


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
