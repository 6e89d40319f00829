from tuning.objectives import Best, Limit, Objectives, Weighted
from tuning.report import Leaderboard, TrialRecord, leaderboard_table, short_names, show


def _board(*metrics: str) -> Leaderboard:
    return Leaderboard(Objectives(metrics), Weighted(Weighted.Config()))


def board(lower_is_better: bool) -> Leaderboard:
    found = _board("loss.rmse" if lower_is_better else "m.auc")
    rows = [("finished", 0.5), ("stopped", 0.4), ("failed", 0.9), ("running", 0.7), ("failed", None), ("finished", 0.5)]
    for number, (status, value) in enumerate(rows):
        found.trials[number] = TrialRecord(number, {"a": number}, status, value, objectives=value and (value,))
    return found


def test_the_best_comes_first_and_failures_last():
    assert [trial.number for trial in board(False).ranked()] == [3, 0, 5, 1, 2, 4]
    assert [trial.number for trial in board(True).ranked()] == [1, 0, 5, 3, 2, 4]


def test_only_a_trial_that_ended_well_is_the_best():
    assert board(False).best.number == 0
    assert board(True).best.number == 1
    assert _board("m.auc").best is None


def test_the_table_shows_at_most_twenty():
    found = _board("m.auc")
    found.trials = {n: TrialRecord(n, {"a": n}, "finished", float(n), objectives=(float(n),)) for n in range(30)}
    table = leaderboard_table(found)
    assert table.row_count == 20
    assert next(iter(table.columns[0].cells)) == "29"
    assert leaderboard_table(_board("m.auc")).row_count == 0


def test_the_rule_picks_among_several_objectives():
    found = _board("click.auc", "seconds")
    for number, point in enumerate([(0.70, 10.0), (0.74, 90.0), (0.72, 20.0)]):
        found.trials[number] = TrialRecord(number, {"a": number}, "finished", point[0], objectives=point)
    assert found.best.number == 2, "most of the gain for little of the time"
    rule = Best.Config(of="click.auc", subject_to={"seconds": Limit(at_most=15)})
    cheap = Leaderboard(found.objectives, Best(rule))
    cheap.trials = found.trials
    assert cheap.best.number == 0
    assert [column.header for column in leaderboard_table(found).columns][2:4] == ["click.auc", "seconds"]


def test_names_are_as_short_as_they_can_be():
    assert short_names(["a.rating", "b.rating", "c.d"]) == ["a.rating", "b.rating", "d"]
    assert short_names(["x.y", "a.x.y"]) == ["x.y", "a.x.y"]
    assert (show(None), show(0.123456), show(3), show("x")) == ("-", "0.1235", "3", "x")
