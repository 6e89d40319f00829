"""A search as it stands, as one page: tuning.html."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from raysys.component import kind_of
from raysys.configfile import dump_yaml
from raysys.errors import UserError
from tuning.page import SearchFacts, search_page
from tuning.plan import Plan
from tuning.samplers import NUMBER
from tuning.study import Study
from tuning.trial import TrialJob, read_reports
from tuning.trials import Trials

if TYPE_CHECKING:
    import optuna


def write_page(plan: Plan, study: Study, trials: Trials, job: TrialJob) -> None:
    """Write the page beside the study."""
    board, config = trials.board, plan.config
    records = sorted(board.trials.values(), key=lambda record: record.number)
    curves = {
        record.number: [
            (int(told["epoch"]), told["objectives"][0])
            for told in read_reports(job, record.number, record.values, record.epochs)
        ]
        for record in records
        if record.epochs
    }
    try:
        best = board.best
    except UserError:  # no trial is within the limits
        best = None
    created = trials.study.get_trials(deepcopy=False)[0].datetime_start if records else None
    facts = {
        "dataset": str(plan.base["dataset"]),
        "tasks": ", ".join(plan.base["tasks"]),
        "searcher": kind_of(config.searcher),
        "scheduler": kind_of(config.scheduler),
        "trials": f"{config.num_trials}, {config.max_concurrent} at a time",
        "seed": str(config.seed),
    }
    said = SearchFacts(
        project=plan.base["project"],
        study_id=study.path.name,
        created=(created or datetime.now()).astimezone(UTC),
        facts=facts,
        objectives=plan.objectives.metrics,
        minimised=plan.objectives.lower_is_better,
        records=records,
        curves=curves,
        study=_numbered(trials.study, len(records)),
        best=None if best is None else best.number,
        config=dump_yaml(config.model_dump(mode="json")),
        place=str(study.path),
        most_epochs=plan.most_epochs,
    )
    study.write_page(search_page(said))


def _numbered(study: "optuna.Study", count: int) -> "optuna.Study":
    """Return the study with each trial under the search's own number: what went on as another trial is there once."""
    import optuna

    newest = {trial.user_attrs[NUMBER]: trial for trial in study.get_trials() if NUMBER in trial.user_attrs}
    out = optuna.create_study(directions=study.directions)
    for number in range(count):
        trial = newest[number]
        if not trial.state.is_finished():
            trial.state = optuna.trial.TrialState.FAIL
            trial.datetime_complete = datetime.now()
        out.add_trial(trial)
    return out
