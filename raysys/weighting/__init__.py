"""Loss weightings. To add one: write `weighting/x.py` with a class derived from Weighting, and add its line here."""

from raysys.weighting.dwa import DwaWeighting
from raysys.weighting.famo import FamoWeighting
from raysys.weighting.fixed import FixedWeighting
from raysys.weighting.gradnorm import GradNormWeighting
from raysys.weighting.gramian import GramianWeighting
from raysys.weighting.uncertainty import UncertaintyWeighting
from raysys.weighting.weighting import Combined, Weighting

WEIGHTINGS: dict[str, type[Weighting]] = {
    "fixed": FixedWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DwaWeighting,
    "famo": FamoWeighting,
    "gradnorm": GradNormWeighting,
    "gramian": GramianWeighting,
}

__all__ = ["WEIGHTINGS", "Combined", "FixedWeighting", "Weighting"]
