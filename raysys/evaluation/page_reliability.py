"""The plots of a run's page that show whether probabilities mean what they say."""

from collections.abc import Iterable, Mapping
from typing import Any

from raysys.data.webpage import Html, plot, section, text
from raysys.evaluation.ordering import masses_of
from raysys.evaluation.page_tables import figure
from raysys.evaluation.pointwise import Predictions
from raysys.evaluation.reliability import BINS, Reliability, reliability

Reliabilities = Mapping[str, Mapping[str, Reliability]]
"""By task, then by what was predicted: before calibration and after, or as the model gives it."""


def reliabilities(predictions: Mapping[str, Predictions]) -> Reliabilities:
    """Return the reliability of each task that predicts probabilities."""
    found = {}
    for task, one in predictions.items():
        if one.predicts == "probability" and len(one.labels_N):
            calibrated = {"as predicted": one.predicted_N}
            if one.raw_N is not None:
                calibrated = {"before calibration": one.raw_N, "calibrated": one.predicted_N}
            found[task] = {name: reliability(masses_of(side, one.is_positive)) for name, side in calibrated.items()}
    return found


def reliability_figures(found: Reliabilities) -> dict[str, Any]:
    """Return what the plots draw, by the name of the plot."""
    return {
        f"reliability-{at}": {
            "series": [
                {
                    "name": text(name),
                    "predicted": side.predicted_B.tolist(),
                    "observed": side.rate_B.tolist(),
                    "counts": side.counts_B.tolist(),
                }
                for name, side in sides.items()
            ]
        }
        for at, sides in enumerate(found.values())
    }


def reliability_sections(found: Reliabilities, split: str) -> Iterable[Html]:
    """Yield a card for each task."""
    for at, (task, sides) in enumerate(found.items()):
        errors = ", ".join(f"{figure(side.error)} {name}" for name, side in sides.items())
        note = (
            f"Predicted against observed on {split}, in at most {BINS} bins of equally many pairs; on the dashed line "
            f"what is said comes true. Calibration error: {errors}."
        )
        yield section(f"Calibration of {task}", note, plot(f"reliability-{at}"))
