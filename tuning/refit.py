"""The winner of a search, trained once more: on all events before the test period, and then judged on that period."""

from raysys.config import RunConfig
from raysys.runs import Run, promote
from tuning.plan import Plan
from tuning.report import TrialRecord

ALIAS = "candidate"


def refit(plan: Plan, best: TrialRecord) -> Run:
    """Train the winner on training and validation events for as many epochs as were best, and name it the candidate.

    The test split is opened here for the first time, and once.
    """
    from raysys.training.fit import train

    run = train(refitted(plan.candidate(best.values), best))
    promote(run, plan.base["root"], ALIAS)
    return run


def refitted(config: RunConfig, best: TrialRecord) -> RunConfig:
    """Return the config of the last training."""
    changed = {"include_validation": True, "epochs": best.verified_epoch or best.best_epoch, "early_stopping": None}
    return config.model_copy(update={"training": config.training.model_copy(update=changed)})
