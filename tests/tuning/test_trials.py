"""The record of trials, without Ray: what is proposed, what is kept, what goes on after an interruption."""

import math

import pytest

from raysys.errors import UserError
from tuning.plan import read_plan
from tuning.study import Study
from tuning.trial import DIED, Failure
from tuning.trials import Trials, add_earlier, begin_record, open_record
from tuning.verify import best_trials

EPOCHS = 3


class Simulated:
    """A search whose trainings are a formula; it can be cut off at any report."""

    def __init__(self, node, path):
        self.plan, self.study = read_plan(node), Study.create("", "", path)
        self.study.write_config(self.plan.config)
        begin_record(self.plan, self.study)
        self.reports = 0
        self.begin()

    def begin(self):
        """Start, or start again as another process would."""
        self.changes = []
        self.trials = Trials(self.plan, open_record(self.plan, self.study), self.changes.append)

    def run(self, until=math.inf):
        """Go on until the search is over, or until so many reports have been made in all."""
        while (begun := self.trials.begin()) is not None:
            rate = begun.values.get("optimizer.learning_rate", 0.01)
            for epoch in range(1, EPOCHS + 1):
                if self.reports >= until:
                    return
                self.reports += 1
                value = epoch - 30 * abs(rate - 0.008)
                stopped = rate < 0.004 and epoch == 1
                report = {"epoch": epoch, "best_epoch": epoch, "finished": epoch == EPOCHS, "objectives": [value]}
                self.trials.reported(begun.number, report)
                if stopped:
                    break
            self.trials.ended(begun.number, None)

    @property
    def told(self):
        records = sorted(self.trials.board.trials.values(), key=lambda record: record.number)
        return [(one.number, one.values, one.status, one.objectives) for one in records]


@pytest.fixture
def simulated(tune_node, tmp_path):
    def make(name="one", **nodes):
        return Simulated({**tune_node, "num_trials": 9, **nodes}, tmp_path / name)

    return make


@pytest.mark.parametrize("kind", ["tpe", "random", pytest.param("gp", marks=pytest.mark.thorough)])
def test_cut_off_anywhere_the_end_is_the_same(simulated, kind):
    whole = simulated(searcher={"kind": kind})
    whole.run()
    assert {status for _, _, status, _ in whole.told} == {"finished", "stopped"}
    for cut in (0, 1, 4, 9, 10, 15):
        other = simulated(f"cut-{cut}", searcher={"kind": kind})
        other.run(until=cut)
        other.begin()
        other.run(until=cut + 2)
        other.begin()
        other.run()
        assert other.told == whole.told, cut


def test_the_first_trial_is_the_base_and_each_is_recorded_once(simulated):
    search = simulated()
    search.run()
    assert search.told[0][1] == search.plan.first_values
    assert [number for number, *_ in search.told] == list(range(9))
    search.begin()
    assert not search.trials.left
    assert search.trials.begin() is None
    assert [one.number for one in search.trials.board.ranked()] != []


def test_draws_that_break_constraints_are_no_trials(simulated):
    search = simulated(constraints=["optimizer.learning_rate >= 0.004"], num_trials=12)
    search.run()
    assert len(search.told) == 12
    assert all(values["optimizer.learning_rate"] >= 0.004 for _, values, *_ in search.told)
    refused = [trial for trial in search.trials.study.trials if "refused" in trial.user_attrs]
    assert refused, "the space reaches far below"


def test_constraints_that_nothing_satisfies_end_the_search(simulated):
    search = simulated(constraints=["optimizer.learning_rate >= 0.02"])
    search.run()
    assert len(search.told) == 1, "the base alone"
    assert "draws in a row" in search.trials.fatal


def test_a_plateau_ends_a_search_and_is_remembered(simulated):
    search = simulated(stop={"plateau": 3}, num_trials=60)
    search.run()
    begun = len(search.told)
    assert begun < 60
    search.begin()
    assert search.trials.begin() is None
    assert "plateau" in search.trials.stopper.reason()


def test_failures_are_kept_with_their_reason_and_the_search_goes_on(simulated):
    search = simulated(num_trials=3)
    first = search.trials.begin()
    search.trials.ended(first.number, Failure("FloatingPointError: nan", False, ""))
    second = search.trials.begin()
    search.trials.ended(second.number, DIED)
    search.run()
    search.begin()
    board = search.trials.board
    assert [board.trials[number].status for number in (0, 1)] == ["failed", "failed"]
    assert board.trials[0].reason == "FloatingPointError: nan"
    assert "died" in board.trials[1].reason
    assert board.best.number == 2


def test_a_base_at_fault_ends_the_search(simulated):
    search = simulated()
    search.trials.ended(search.trials.begin().number, Failure("UserError: no such metric", True, ""))
    assert search.trials.begin() is None
    assert search.trials.fatal == "no such metric"


def test_a_grid_ends_with_its_last_point(simulated):
    space = {"model.dropout": {"kind": "choice", "values": [0.0, 0.1, 0.2]}}
    search = simulated(space=space, searcher={"kind": "grid"}, scheduler={"kind": "none"}, num_trials=50)
    search.run()
    assert sorted(values["model.dropout"] for _, values, *_ in search.told) == [0.0, 0.1, 0.2]


def test_several_objectives_are_kept_and_picked_by_the_rule(simulated):
    nodes = {"objectives": [{"metric": "next_item.ndcg@10"}, {"metric": "seconds"}], "scheduler": {"kind": "none"}}
    search = simulated(metric=None, num_trials=4, **nodes)
    points = [(0.30, 9.0), (0.29, 1.0), (0.20, 0.9), (0.10, 8.0)]
    for point in points:
        begun = search.trials.begin()
        report = {"epoch": 1, "best_epoch": 1, "finished": True, "objectives": point}
        search.trials.reported(begun.number, report)
        search.trials.ended(begun.number, None)
    assert search.trials.board.best.number == 1
    assert [trial.values for trial in search.trials.study.trials] == [list(point) for point in points]
    assert search.trials.study.best_trials


def test_trials_of_an_earlier_search_are_known_and_not_counted(simulated, tmp_path):
    first = simulated("first")
    first.run()
    first.trials.study.set_user_attr("objectives", ["next_item.ndcg@10"])
    complete = sum(trial.state.name == "COMPLETE" for trial in first.trials.study.trials)
    second = simulated("second")
    record = begin_record(second.plan, Study.create("", "", tmp_path / "third"))
    assert add_earlier(second.plan, record, first.study.path) == complete
    trials = Trials(second.plan, record, lambda record: None)
    assert trials.begin().number == 0
    assert not trials.board.ended()
    narrow = {"optimizer.learning_rate": {"kind": "float", "low": 1e-9, "high": 2e-9}}
    other = simulated("narrow", space=narrow)
    empty = begin_record(other.plan, Study.create("", "", tmp_path / "empty"))
    assert add_earlier(other.plan, empty, first.study.path) == 0


def test_the_record_can_be_in_a_database(simulated, tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    here, there = simulated("here"), simulated("there", storage=url)
    here.run()
    there.run(until=7)
    there.begin()
    there.run()
    assert there.told == here.told
    assert not there.study.journal.exists()
    other = simulated("other", storage=url)
    assert not other.trials.board.trials, "each search has its own name there"
    there.trials.study.set_user_attr("objectives", ["next_item.ndcg@10"])
    assert add_earlier(other.plan, other.trials.study, there.study.path) > 0


def test_a_database_that_cannot_be_opened_is_refused(simulated):
    with pytest.raises(UserError, match=r"storage: nosuch://x: cannot be opened"):
        simulated("bad", storage="nosuch://x")


def test_a_study_that_was_moved_goes_on(simulated, tmp_path):
    whole, moved = simulated("whole"), simulated("moved")
    whole.run()
    moved.run(until=7)
    moved.study = Study(moved.study.path.rename(tmp_path / "elsewhere"))
    moved.begin()
    moved.run()
    assert moved.told == whole.told


def test_a_storage_without_the_record_is_refused(simulated, tmp_path):
    search = simulated(storage=f"sqlite:///{tmp_path / 'one.db'}")
    search.study = Study(search.study.path.rename(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"has no record of it under .*elsewhere"):
        search.begin()


def test_of_several_objectives_those_within_the_limits_are_verified(simulated):
    pick = {"kind": "best", "of": "next_item.ndcg@10", "subject_to": {"seconds": {"at_most": 2}}}
    nodes = {"objectives": [{"metric": "next_item.ndcg@10"}, {"metric": "seconds"}], "scheduler": {"kind": "none"}}
    search = simulated(metric=None, num_trials=3, pick=pick, **nodes)
    for point in [(0.30, 9.0), (0.29, 1.0), (0.31, 8.0)]:
        begun = search.trials.begin()
        search.trials.reported(begun.number, {"epoch": 1, "best_epoch": 1, "finished": True, "objectives": point})
        search.trials.ended(begun.number, None)
    assert [record.number for record in best_trials(search.trials.board, 3)] == [1, 0], "and the base beside it"


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_every_searcher_learns_from_what_was_stopped(simulated, kind):
    """A Gaussian process passes over pruned trials, so to it they are complete, at their best epoch."""
    search = simulated(searcher={"kind": kind}, num_trials=12)
    search.run()
    records = [trial for trial in search.trials.study.trials if trial.user_attrs.get("record")]
    stopped = [trial for trial in records if trial.user_attrs["record"]["status"] == "stopped"]
    assert stopped
    assert {trial.state.name for trial in stopped} == {"PRUNED" if kind == "tpe" else "COMPLETE"}
    assert [trial.value for trial in stopped] == [trial.user_attrs["record"]["value"] for trial in stopped]
