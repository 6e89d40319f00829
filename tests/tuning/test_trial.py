import json
import math
from dataclasses import replace

import pytest

from raysys.errors import UserError
from raysys.training.loop import read_history
from tuning.plan import read_plan
from tuning.trial import (
    OBJECTIVE,
    Standing,
    TrialJob,
    read_failure,
    read_reports,
    run_trial,
    sweep,
    trial_directory,
)


@pytest.fixture
def job(tune_node, tmp_path) -> TrialJob:
    plan = read_plan(tune_node)
    return TrialJob(plan.base, plan.metric, plan.objectives.metrics, str(tmp_path))


def test_a_trial_reports_every_epoch_with_its_best_so_far(job, tmp_path):
    reports = []
    run_trial(job, 0, {"optimizer.learning_rate": 0.01}, reports.append)
    history = read_history(tmp_path / "000")
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    assert [report[job.metric] for report in reports] == [line[job.metric] for line in history]
    best = [max(line[job.metric] for line in history[: count + 1]) for count in range(3)]
    assert [report[OBJECTIVE] for report in reports] == best
    assert [report["finished"] for report in reports] == [False, False, True]
    assert {"loss", "rating.rmse"} <= reports[-1].keys()


def test_a_trial_leaves_its_history_alone(job, tmp_path):
    run_trial(job, 7, {}, lambda report: None)
    directory = trial_directory(job.directory, 7)
    assert len(list(directory.iterdir())) > 1
    sweep(directory)
    assert [path.name for path in directory.iterdir()] == ["history.jsonl"]


def test_a_failure_is_recorded_with_its_reason(job, tmp_path):
    with pytest.raises(FloatingPointError):
        run_trial(job, 1, {"optimizer.learning_rate": 1e30}, lambda report: None)
    sweep(tmp_path / "001")
    failure = read_failure(tmp_path / "001")
    assert failure.reason.startswith("FloatingPointError: the loss is nan at step ")
    assert not failure.by_user
    assert "training/loop.py" in failure.traceback


def test_who_did_not_fail_has_no_reason(tmp_path):
    assert read_failure(tmp_path) is None


def test_an_interrupted_trial_goes_on_and_tells_all_again(job, tmp_path):
    """As often as it is interrupted, after an epoch or in the midst of writing one, the end is the same."""
    whole: list[dict] = []
    run_trial(job, 0, {"optimizer.learning_rate": 0.01}, whole.append)

    class Killed(BaseException):
        """What no handler catches, as a signal would end the process."""

    for stop_at in (1, 2, 3):
        told: list[dict] = []

        def report(found, told=told, stop_at=stop_at):
            told.append(found)
            if found["epoch"] == stop_at:
                raise Killed

        with pytest.raises(Killed):
            run_trial(job, 1, {"optimizer.learning_rate": 0.01}, report)
        assert [found["epoch"] for found in told] == list(range(1, stop_at + 1))
    with (tmp_path / "001" / "history.jsonl").open("a") as file:  # an epoch whose checkpoint never came
        file.write(json.dumps({**whole[-1], "epoch": 4}) + "\n")
    again: list[dict] = []
    run_trial(job, 1, {"optimizer.learning_rate": 0.01}, again.append)
    assert [_timeless(found) for found in again] == [_timeless(found) for found in whole]


def test_costs_are_objectives(job, tmp_path):
    reports: list[dict] = []
    run_trial(replace(job, objectives=("rating.rmse", "parameters", "seconds")), 2, {}, reports.append)
    error, parameters, seconds = reports[-1]["objectives"]
    assert error == reports[reports[-1]["best_epoch"] - 1]["rating.rmse"]
    assert parameters == int(parameters) > 1000
    assert 0 < seconds == reports[-1]["seconds"]


def test_the_time_of_an_answer_is_measured_once_and_changes_nothing(job, tmp_path):
    """Not at every epoch, nor when the trial goes on or is read again; training goes on as if nobody had looked."""
    latency = replace(job, objectives=(job.metric, "latency_ms"))
    plain: list[dict] = []
    measured: list[dict] = []
    run_trial(job, 0, {"model.dropout": 0.2}, plain.append)
    run_trial(latency, 1, {"model.dropout": 0.2}, measured.append)
    assert [told["loss"] for told in measured] == [told["loss"] for told in plain]
    assert [told[job.metric] for told in measured] == [told[job.metric] for told in plain]
    times = {told["objectives"][1] for told in measured}
    assert len(times) == 1
    assert 0 < min(times) < 1000
    again: list[dict] = []
    run_trial(latency, 1, {"model.dropout": 0.2}, again.append)
    assert again == measured
    sweep(tmp_path / "001")
    assert read_reports(latency, 1, {"model.dropout": 0.2}, 3) == measured
    assert read_reports(latency, 1, {"model.dropout": 0.2}, 2) == measured[:2]


def _timeless(report: dict) -> dict:
    return {name: value for name, value in report.items() if name not in ("seconds", "users_per_second")}


def test_a_metric_that_is_not_measured_is_the_users_fault(job, tmp_path):
    wrong = replace(job, metric="next_item.ndgc@10")
    with pytest.raises(UserError):
        run_trial(wrong, 0, {}, lambda report: None)
    failure = read_failure(tmp_path / "000")
    assert failure.by_user
    assert failure.reason.startswith("UserError: metric: 'next_item.ndgc@10' is not measured; did you mean")


def standing(tune_node, metric: str, patience: int = 2, epochs: int = 9) -> Standing:
    settings = [
        f"metric={metric}",
        f"base.training.early_stopping.patience={patience}",
        f"base.training.epochs={epochs}",
    ]
    return Standing(read_plan(tune_node, settings).candidate({}), metric)


def test_an_error_is_better_when_lower_and_patience_ends_a_trial(tune_node):
    own = standing(tune_node, "rating.rmse")
    seen = []
    for epoch, value in enumerate([0.9, 0.7, 0.8, 0.75], start=1):
        assert own.update({"epoch": epoch, "loss": 1.0, "rating.rmse": value})
        seen.append((own.value, own.epoch, own.finished))
    assert seen == [(0.9, 1, False), (0.7, 2, False), (0.7, 2, False), (0.7, 2, True)]


def test_an_epoch_without_validation_is_not_reported(tune_node):
    own = standing(tune_node, "next_item.ndcg@10", epochs=2)
    assert not own.update({"epoch": 1, "loss": 1.0})
    with pytest.raises(UserError, match="no user has validation events"):
        own.update({"epoch": 2, "loss": 1.0})


def test_a_metric_without_a_value_is_refused(tune_node):
    own = standing(tune_node, "rating.auc")
    with pytest.raises(UserError, match="has no value"):
        own.update({"epoch": 1, "rating.auc": math.nan})
