"""Calibration of a run's tasks: fitted on validation, kept as JSON, applied wherever the run is asked for predictions.

Whoever fits gives predictions of the validation split; nothing here sees another one.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from raysys.component import FrozenConfig, kind_of
from raysys.data.batches import Targets
from raysys.evaluation.calibration import CALIBRATIONS
from raysys.evaluation.calibration.calibrator import Calibrator, CannotFitError
from raysys.evaluation.calibration.uncalibrated import Uncalibrated
from raysys.evaluation.pointwise import Predictions, pointwise_notes
from raysys.model.recommender import Encoded
from raysys.tasks.multitask import MultiTask

FILE = "calibration.json"

Calibrators = Mapping[str, Calibrator]
"""By task; of tasks that predict probabilities alone."""


def fit_calibrators(config: FrozenConfig, predictions: Mapping[str, Predictions]) -> Calibrators:
    """Fit a calibration to each task that predicts probabilities, from what it predicted on the validation split."""
    return {task: _fit(config, found) for task, found in predictions.items() if found.predicts == "probability"}


def calibrated(predictions: Mapping[str, Predictions], calibrators: Calibrators) -> dict[str, Predictions]:
    """Return predictions with calibrated probabilities, those of before beside them."""
    found = dict(predictions)
    for task, one in predictions.items():
        calibrator = calibrators.get(task)
        if calibrator is not None and not isinstance(calibrator, Uncalibrated):
            found[task] = replace(one, predicted_N=calibrator.apply(one.predicted_N), raw_N=one.predicted_N)
    return found


def pair_predictions(
    network: MultiTask, encoded: Encoded, targets: Targets, calibrators: Calibrators
) -> dict[str, Tensor]:
    """Return what each task that scores pairs predicts of targets [B, C], calibrated where it is known how."""
    found = {}
    for name, task in network.pair_scorers().items():
        predicted_BC = task.predict(task.logits(encoded, targets))
        if name in calibrators:
            shown = calibrators[name].apply(predicted_BC.cpu().numpy())
            predicted_BC = torch.from_numpy(shown).to(predicted_BC)
        found[name] = predicted_BC
    return found


def remarks(predictions: Mapping[str, Predictions], calibrators: Calibrators) -> tuple[str, ...]:
    """Return what the reader of a report has to know of its labels: who is left out, how they were calibrated."""
    found = []
    for task, one in predictions.items():
        found += pointwise_notes(task, one)
        if task in calibrators:
            fitted = "" if isinstance(calibrators[task], Uncalibrated) else ", fitted on the validation split"
            found.append(f"{task}: calibration: {calibrators[task].describe()}{fitted}")
    return tuple(found)


def write_calibrators(calibrators: Calibrators, run: Path) -> None:
    """Write {task: {"kind", parameters}} into a run directory; no file where no task predicts probabilities."""
    if not calibrators:
        return
    kinds = {part: kind for kind, part in CALIBRATIONS.items()}
    nodes = {task: {"kind": kinds[type(one)], **one.to_json()} for task, one in calibrators.items()}
    (run / FILE).write_text(json.dumps(nodes, indent=1))


def read_calibrators(run: Path) -> Calibrators:
    """Read what `write_calibrators` wrote; empty for a run without probabilities."""
    path = run / FILE
    nodes = json.loads(path.read_text()) if path.is_file() else {}
    return {task: CALIBRATIONS[node.pop("kind")].from_json(node) for task, node in nodes.items()}


def _fit(config: FrozenConfig, found: Predictions) -> Calibrator:
    positives = int(found.is_positive.sum())
    if kind_of(config) == "none":
        return Uncalibrated()
    if positives in (0, len(found.labels_N)):
        return Uncalibrated(f"all {len(found.labels_N):,} labels of the validation split are of one class")
    try:
        return CALIBRATIONS[kind_of(config)].fit(config, found.predicted_N, found.is_positive)
    except CannotFitError as error:
        return Uncalibrated(f"{error} on the validation split")
