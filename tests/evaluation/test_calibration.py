"""Calibrations: what they learn, what they refuse, and that nothing of the test split enters them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from torch import nn

from raysys.component import FrozenConfig
from raysys.config import RunConfig
from raysys.configfile import build
from raysys.data.batches import make_batch
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.calibration import CALIBRATIONS
from raysys.evaluation.calibration.isotonic import Isotonic
from raysys.evaluation.calibration.of_tasks import (
    FILE,
    calibrated,
    fit_calibrators,
    pair_predictions,
    read_calibrators,
    write_calibrators,
)
from raysys.evaluation.calibration.platt import Platt
from raysys.evaluation.calibration.temperature import Temperature
from raysys.evaluation.calibration.uncalibrated import Uncalibrated
from raysys.evaluation.evaluate import examine
from raysys.evaluation.pointwise import Predictions, pointwise_metrics
from raysys.evaluation.protocol import EvaluationConfig
from raysys.tasks import TASKS
from raysys.tasks.task import Task
from raysys.training.fit import examine_and_keep

KINDS = [kind for kind in CALIBRATIONS if kind != "none"]


def fit(kind: str, predicted: np.ndarray, positive: np.ndarray):
    return CALIBRATIONS[kind].fit(CALIBRATIONS[kind].Config(), predicted, positive)


def planted(slope: float, offset: float, size: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions, and labels whose log odds are slope x those of the predictions + offset."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(-1, 1.5, size)
    return expit(odds).astype(np.float32), generator.random(size) < expit(slope * odds + offset)


def test_platt_finds_what_was_planted():
    found = fit("platt", *planted(0.5, -1.0))
    assert (found.slope, found.offset) == pytest.approx((0.5, -1.0), abs=0.05)


def test_temperature_finds_what_was_planted():
    assert fit("temperature", *planted(0.5, 0.0)).temperature == pytest.approx(2, abs=0.1)


def test_isotonic_pools_what_is_out_of_order():
    """Pool adjacent violators by hand: 0.2 and 0.3 are out of order and share a level."""
    predicted = np.repeat([0.1, 0.2, 0.3, 0.9], 1000)
    rates = np.repeat([0.1, 0.4, 0.2, 0.8], 1000)
    positive = np.tile(np.arange(1000) / 1000, 4) < rates
    found = fit("isotonic", predicted, positive)
    assert found.predicted == (0.1, 0.2, 0.3, 0.9)
    assert found.calibrated == pytest.approx((0.1, 0.3, 0.3, 0.8), abs=2e-3)
    assert found.apply(np.array([0.0, 0.25, 0.6, 1.0])) == pytest.approx([0.1, 0.3, 0.55, 0.8], abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_beats_what_was_predicted_and_is_the_same_again(kind):
    predicted, positive = planted(0.4, 0.0)
    found, again = fit(kind, predicted, positive), fit(kind, predicted, positive)
    assert found == again
    fresh, held_out = planted(0.4, 0.0, seed=1)
    before, after = (
        pointwise_metrics(Predictions(side, held_out * 1.0, np.arange(len(fresh)), 1.0, "probability"))
        for side in (fresh, found.apply(fresh))
    )
    assert after["ece"] < before["ece"] / 4
    assert after["log_loss"] < before["log_loss"]
    assert after["auc"] == pytest.approx(before["auc"], abs=2e-3)


@given(
    st.sampled_from(list(CALIBRATIONS)),
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=2, max_size=30),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_it_stays_a_probability_and_in_order_and_survives_json(kind, pairs, asked):
    predicted, positive = (np.array(side) for side in zip(*pairs, strict=True))
    if positive.all() or not positive.any():
        positive[0] = not positive[0]
    labelled = Predictions(predicted, positive * 1.0, np.arange(len(pairs)), 1.0, "probability")
    found = fit_calibrators(CALIBRATIONS[kind].Config(), {"click": labelled})["click"]
    shown = found.apply(np.sort(np.array(asked)))
    assert ((shown >= 0) & (shown <= 1)).all()
    assert (np.diff(shown) >= 0).all()
    assert type(found).from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_part_wholly_ask_for_no_certainty(kind):
    predicted = np.r_[np.full(50, 0.3), np.full(50, 0.6)]
    shown = fit(kind, predicted, predicted > 0.5).apply(np.array([0.3, 0.6]))
    assert shown == pytest.approx([1 / 52, 51 / 52], abs=1e-3 if kind != "temperature" else 0.3)


def labelled(labels, predicted=None) -> Predictions:
    labels = np.array(labels, float)
    predicted = np.linspace(0.1, 0.9, len(labels)) if predicted is None else np.array(predicted)
    return Predictions(predicted, labels, np.arange(len(labels)), 1.0, "probability")


def test_what_cannot_be_fitted_says_why():
    rising = {"click": labelled([0, 0, 1, 1])}
    config = Platt.Config()
    assert fit_calibrators(config, {"click": labelled([0, 0, 0])})["click"] == Uncalibrated(
        "all 3 labels of the validation split are of one class"
    )
    falling = fit_calibrators(config, {"click": labelled([1, 1, 1, 0, 0, 1, 0, 0, 0])})["click"]
    assert falling == Uncalibrated("predictions do not rise with the label on the validation split")
    assert isinstance(fit_calibrators(config, rising)["click"], Platt)
    assert fit_calibrators(Uncalibrated.Config(), rising) == {"click": Uncalibrated()}
    stars = Predictions(np.array([1.0, 2]), np.array([1.0, 5]), np.array([0, 1]), 4.0)
    assert fit_calibrators(config, {"rating": stars}) == {}, "a value is no probability"


def test_a_config_names_the_kind():
    assert EvaluationConfig().calibration == Platt.Config()
    made = build(EvaluationConfig, {"calibration": {"kind": "isotonic"}}, "test")
    assert made.calibration == Isotonic.Config()
    with pytest.raises(UserError, match="isotonic"):
        build(EvaluationConfig, {"calibration": {"kind": "isotonik"}}, "test")


def test_calibrators_survive_being_written(tmp_path):
    assert read_calibrators(tmp_path) == {}
    kept = {
        "click": Platt(0.5, -1.25),
        "buy": Isotonic((0.1, 0.2), (0.0, 0.5)),
        "like": Uncalibrated("no"),
        "share": Temperature(2.0),
    }
    write_calibrators(kept, tmp_path)
    assert read_calibrators(tmp_path) == kept
    assert json.loads((tmp_path / FILE).read_text())["click"] == {"kind": "platt", "slope": 0.5, "offset": -1.25}


def test_calibrated_predictions_keep_those_of_before():
    before = {"click": labelled([0, 1]), "like": labelled([0, 1])}
    found = calibrated(before, {"click": Platt(1.0, -1.0), "like": Uncalibrated()})
    np.testing.assert_allclose(logit(found["click"].predicted_N), logit(before["click"].predicted_N) - 1)
    assert found["click"].raw_N is before["click"].predicted_N
    assert found["like"] is before["like"]


# A task that predicts probabilities, evaluated


class Liked(Task):
    """The sigmoid of a scaled dot product, for ratings of 4 and more; users in even rows are not judged."""

    source = "pairs"
    label = "rating"
    predicts = "probability"
    positive_from = 4.0

    class Config(FrozenConfig):
        kind: str = "liked"

    def __init__(self, config, context):
        super().__init__(config, context)
        self.scale = nn.Parameter(torch.ones(1))

    def logits(self, encoded, targets):
        return self.scale * (encoded.state_before(targets.anchor_BC) * encoded.items(targets.items_BC)).sum(-1)

    def truth(self, targets):
        return super().truth(targets).masked_fill(targets.items_BC % 2 == 0, torch.nan)

    def count(self, view):
        raise AssertionError("not trained here")

    def loss(self, encoded, view, logits):
        raise AssertionError("not trained here")

    def predict(self, logits):
        return logits.sigmoid()


@pytest.fixture
def liked(make_network, monkeypatch):
    monkeypatch.setitem(TASKS, "liked", Liked)
    return make_network("next_item", "liked")


CALIBRATORS = {"liked": Platt(0.25, -0.5)}


def test_a_task_is_judged_where_it_wants_to_be_and_beside_the_rate(judge, liked, user_lines):
    found = examine(judge, liked, Split.TEST, CALIBRATORS)
    pairs = found.outcomes.predictions["liked"]
    events = [event for line in user_lines for event in line if not np.isnan(event["rating"])]
    judged = [event for event in events if event["mark"] == Split.TEST and event["item"] % 2]
    assert len(pairs.labels_N) == len(judged) > 0
    assert sorted(pairs.labels_N) == sorted(event["rating"] for event in judged)
    learnt = [event["rating"] >= 4 for event in events if event["mark"] == Split.TRAIN and event["item"] % 2]
    rate, observed = np.mean(learnt), np.mean([event["rating"] >= 4 for event in judged])
    loss = -(observed * np.log(rate) + (1 - observed) * np.log(1 - rate))
    beside = found.report.baselines["training_mean"]
    assert set(beside) == {"liked.log_loss", "liked.normalised_entropy", "liked.ece", "liked.ece_floor"}
    assert beside["liked.log_loss"].mean == pytest.approx(loss, abs=1e-6)
    assert beside["liked.ece"].mean == pytest.approx(abs(rate - observed), abs=1e-6)


def test_test_figures_are_calibrated_and_validation_ones_are_not(judge, liked):
    raw, test = examine(judge, liked, Split.TEST), examine(judge, liked, Split.TEST, CALIBRATORS)
    assert test.report.metrics["liked.ece_raw"].mean == raw.report.metrics["liked.ece"].mean
    assert test.report.metrics["liked.ece"].mean != raw.report.metrics["liked.ece"].mean
    assert test.report.metrics["liked.auc"].mean == pytest.approx(raw.report.metrics["liked.auc"].mean, abs=1e-9)
    assert "liked: calibration: platt, slope 0.2500, offset -0.5000, fitted on the validation split" in (
        test.report.notes
    )
    valid = examine(judge, liked, Split.VALID, CALIBRATORS)
    assert valid.report == examine(judge, liked, Split.VALID).report
    assert "liked.ece_raw" not in valid.report.metrics


def test_whoever_asks_for_predictions_gets_what_was_judged(judge, liked, contract_reader):
    batch = make_batch(contract_reader.rows(np.arange(20)), Split.TEST, contract_reader.is_history, judge.max_length)
    with torch.inference_mode():
        encoded = liked.recommender(batch.history)
        raw = pair_predictions(liked, encoded, batch.targets, {})["liked"]
        shown = pair_predictions(liked, encoded, batch.targets, CALIBRATORS)["liked"]
    assert shown.dtype == raw.dtype
    np.testing.assert_allclose(logit(shown.numpy()), 0.25 * logit(raw.numpy()) - 0.5, atol=1e-4)


@pytest.fixture
def kept(judge, liked, tmp_path, monkeypatch):
    """Do with a trained model what training does at its end, some ratings turned round; return what is kept."""
    rows = ShardReader.rows

    def keep(name: str, turned: Split | None = None, **evaluation):
        def read(reader, asked):
            found = rows(reader, asked)
            ratings = np.where(found.marks == turned, 6 - found.labels["rating"], found.labels["rating"])
            return replace(found, labels={**found.labels, "rating": ratings})

        monkeypatch.setattr(ShardReader, "rows", read)
        node = {"project": "kept", "model": {"max_length": judge.max_length}, "evaluation": {"k": [3], "resamples": 20}}
        node["evaluation"] |= evaluation
        (tmp_path / name).mkdir()
        config = build(RunConfig, node, "test")
        reports = examine_and_keep(config, judge.dataset, liked, tmp_path / name)
        return {report.split: report for report in reports}, read_calibrators(tmp_path / name)

    return keep


def test_a_run_keeps_its_calibration_and_reports_test_with_it(judge, liked, kept):
    reports, calibrators = kept("one", calibration={"kind": "isotonic"})
    assert isinstance(calibrators["liked"], Isotonic)
    assert "liked.ece_raw" in reports["test"].metrics
    assert "liked.ece_raw" not in reports["valid"].metrics
    again = examine(judge, liked, Split.TEST, calibrators).report
    for name in (name for name in reports["test"].metrics if name.startswith("liked.")):
        assert again.metrics[name].mean == reports["test"].metrics[name].mean


def test_nothing_of_the_test_split_enters_a_calibration(kept):
    (as_is, fitted), (test_turned, same), (_, other) = (
        kept(name, turned) for name, turned in (("as-is", None), ("test", Split.TEST), ("valid", Split.VALID))
    )
    assert as_is["test"].metrics["liked.log_loss"] != test_turned["test"].metrics["liked.log_loss"]
    assert same == fitted
    assert other != fitted


def test_without_a_calibration_nothing_is_said_of_before_and_after(kept):
    reports, calibrators = kept("none", calibration={"kind": "none"})
    assert calibrators == {"liked": Uncalibrated()}
    assert "liked.ece_raw" not in reports["test"].metrics
