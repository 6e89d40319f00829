from types import SimpleNamespace

import pytest

from raysys.component import OneOf
from raysys.errors import UserError
from tuning.schedulers import SCHEDULERS


def scheduler_of(kind, **config):
    return SCHEDULERS[kind](OneOf(SCHEDULERS).validate({"kind": kind, **config}))


class Trial:
    """As much of a trial of Ray Tune as the rule looks at."""

    def __init__(self, number: int) -> None:
        self.trial_id = str(number)


def median_rule(**config):
    from ray.tune import schedulers

    scheduler = scheduler_of("median", **config)
    return getattr(schedulers, scheduler.ray_class)(metric="m", mode="max", **scheduler.options(9))


def decisions(rule, trial, values) -> list[str]:
    """Report a trial's epochs while others wait; returns what the rule says after each."""
    waiting = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])
    return [rule.on_trial_result(waiting, trial, {"epoch": at, "m": m}) for at, m in enumerate(values, start=1)]


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_what_compares_trials_needs_one_objective(kind):
    assert scheduler_of(kind).needs_one_objective == (kind != "none")


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_grace_that_spares_all_is_refused(kind):
    assert scheduler_of(kind, grace_epochs=2).options(3)["grace_period"] == 2
    with pytest.raises(UserError, match=r"scheduler\.grace_epochs: 3, but a trial has 3 epochs"):
        scheduler_of(kind, grace_epochs=3).options(3)


def test_a_trial_below_the_median_ends():
    rule = median_rule(grace_epochs=2, least_trials=3)
    for number, value in enumerate([0.5, 0.6, 0.7]):
        assert set(decisions(rule, Trial(number), [value] * 4)) == {"CONTINUE"}
    assert decisions(rule, Trial(3), [0.4, 0.4]) == ["CONTINUE", "STOP"]
    assert decisions(rule, Trial(4), [0.4, 0.65, 0.1]) == ["CONTINUE"] * 3, "its best epoch counts"


def test_nobody_is_paused_while_there_are_few():
    """A paused trial would begin anew: it keeps no checkpoint."""
    rule = median_rule(least_trials=2)
    assert set(decisions(rule, Trial(0), [0.1] * 8)) == {"CONTINUE"}
