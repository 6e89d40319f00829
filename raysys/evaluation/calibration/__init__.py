"""Calibrations. To add one: write `calibration/x.py` with a class derived from Calibrator, and add its line."""

from raysys.evaluation.calibration.calibrator import Calibrator
from raysys.evaluation.calibration.isotonic import Isotonic
from raysys.evaluation.calibration.platt import Platt
from raysys.evaluation.calibration.temperature import Temperature
from raysys.evaluation.calibration.uncalibrated import Uncalibrated

CALIBRATIONS: dict[str, type[Calibrator]] = {
    "platt": Platt,
    "temperature": Temperature,
    "isotonic": Isotonic,
    "none": Uncalibrated,
}
