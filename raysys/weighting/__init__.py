"""Loss weightings. To add one: write `weighting/x.py` with a class derived from Weighting, and add its line here."""

from raysys.weighting.fixed import FixedWeighting
from raysys.weighting.weighting import Combined, Weighting

WEIGHTINGS: dict[str, type[Weighting]] = {"fixed": FixedWeighting}

__all__ = ["WEIGHTINGS", "Combined", "FixedWeighting", "Weighting"]
