import math

import pytest

from raysys.configfile import build
from raysys.errors import UserError
from tuning.stopping import StopConfig, Stopper


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def stale_after(values, lower=(False,), **config) -> int | None:
    """Return after how many trials a search ends."""
    stopper = Stopper(StopConfig(**config), lower)
    for count, value in enumerate(values, start=1):
        stopper.ended(value)
        if stopper.reason():
            return count
    return None


def test_time_ends_a_search():
    clock = Clock()
    stopper = Stopper(StopConfig(seconds=60), [False], clock)
    clock.now += 59
    assert stopper.reason() is None
    clock.now += 1
    assert stopper.reason() == "60 seconds have passed (stop.seconds: 60)"


def test_time_spent_before_an_interruption_counts():
    clock = Clock()
    stopper = Stopper(StopConfig(seconds=60), [False], clock, spent=50)
    clock.now += 9
    assert (stopper.reason(), stopper.spent) == (None, 59)
    clock.now += 1
    assert stopper.reason()


def test_nothing_ends_a_search_that_does_not_say_so():
    assert stale_after([[0.5]] * 50) is None


def test_a_plateau_ends_a_search():
    assert stale_after([[0.1], [0.2], [0.2], [0.1], [0.3], [0.0], [0.3], [0.1]], plateau=3) == 8
    assert stale_after([[0.9], [0.8], [0.9], [1.0], [0.9]], lower=[True], plateau=3) == 5
    stopper = Stopper(StopConfig(plateau=2), [False])
    for value in ([0.5], [0.4], [0.3]):
        stopper.ended(value)
    assert stopper.reason() == "no improvement in 2 trials (stop.plateau: 2)"


def test_failed_trials_improve_nothing():
    assert stale_after([[0.1], None, None, None], plateau=3) == 4
    assert stale_after([None, None, [0.1], None], plateau=3) is None


def test_an_improvement_must_be_worth_it():
    values = [[0.1], [0.1005], [0.1009], [0.102], [0.102]]
    assert stale_after([[0.1 + 0.0006 * step] for step in range(20)], plateau=2, tolerance=0.001) is None, "they add up"
    assert stale_after(values, plateau=2, tolerance=0.001) == 3
    assert stale_after(values, plateau=2) is None


def test_of_several_objectives_a_trial_that_no_other_beats_improves():
    both = {"lower": [False, True], "plateau": 2}
    assert stale_after([[0.5, 10], [0.6, 20], [0.4, 5], [0.45, 7]], **both) is None
    assert stale_after([[0.5, 10], [0.4, 12], [0.5, 10]], **both) == 3


@pytest.mark.parametrize("node", [{"seconds": 0}, {"plateau": 0}, {"tolerance": -1}, {"plateu": 3}])
def test_nonsense_is_refused(node):
    with pytest.raises(UserError):
        build(StopConfig, node, "test")


def test_a_search_without_trials_has_no_plateau():
    assert Stopper(StopConfig(plateau=1), [False]).reason() is None
    assert math.isclose(Stopper(StopConfig(), [False], lambda: 5.0).spent, 0)
