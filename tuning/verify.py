"""The best trials of a search over a share of the users, trained again on all of them."""

from dataclasses import replace
from typing import Any

from raysys.configfile import set_path
from raysys.errors import UserError
from raysys.progress import stage
from tuning.plan import Plan
from tuning.report import Leaderboard, TrialRecord, show
from tuning.study import Study
from tuning.trial import SHARE, TrialJob, run_trial


def on_a_share(plan: Plan, job: TrialJob) -> TrialJob:
    """Return what trials have in common where they train on a share of the users."""
    share = plan.config.dataset_fraction
    return job if share == 1 else replace(job, base=set_path(job.base, SHARE, share))


def verify(plan: Plan, study: Study, board: Leaderboard, job: TrialJob) -> None:
    """Train the best trials, and the base beside them, on all users; the best of these wins.

    What an interruption cut off goes on from its checkpoint, what was done is not done again. A trial that fails on
    all users does not win.
    """
    whole = replace(job, directory=str(study.path / "verified"))
    for record in best_trials(board, plan.config.verify):
        with stage(f"verify trial {record.number} on all users") as remarks:
            reports: list[dict[str, Any]] = []
            try:
                run_trial(whole, record.number, record.values, reports.append)
            except Exception as error:
                remarks.append(f"failed: {error}")
                continue
            record.verified, record.verified_epoch = tuple(reports[-1]["objectives"]), int(reports[-1]["best_epoch"])
            remarks += [
                f"{name} {show(value)}" for name, value in zip(plan.objectives.metrics, record.verified, strict=True)
            ]
        study.write_leaderboard(board)


def best_trials(board: Leaderboard, count: int) -> list[TrialRecord]:
    """Return the best trials as the objectives see them, and the base."""
    left = {record.number: record.objectives or () for record in board.ended()}
    best: list[int] = []
    while left and len(best) < count:
        try:
            number = board.objectives.pick(board.pick, left)
        except UserError:  # none that is left is within the limits
            if not best:
                raise
            break
        assert number is not None
        best.append(number)
        del left[number]
    return [board.trials[number] for number in dict.fromkeys([*best, *([0] if 0 in left else [])])]
