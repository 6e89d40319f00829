"""What point-wise tasks share. To add a kind: write `sharing/x.py` with a class derived from Sharing, and its line."""

from raysys.model.sharing.mmoe import MMoE
from raysys.model.sharing.ple import PLE
from raysys.model.sharing.shared_bottom import SharedBottom
from raysys.model.sharing.sharing import Shared, Sharing, SharingContext
from raysys.model.sharing.stem import STEM

SHARINGS: dict[str, type[Sharing]] = {
    "mmoe": MMoE,
    "ple": PLE,
    "shared_bottom": SharedBottom,
    "stem": STEM,
}

__all__ = ["SHARINGS", "Shared", "Sharing", "SharingContext"]
