"""Triplet: an item lies closer to what is consumed near it than to a drawn item, by a margin."""

from typing import Annotated, Literal

from pydantic import Field

from raysys.component import FrozenConfig, OneOf
from raysys.tasks.item_pairs import ItemPairs, ItemPairsConfig
from raysys.tasks.objectives import OBJECTIVES


class Triplet(ItemPairs):
    """The hinge of FaceNet (Schroff et al., 2015, arXiv 1503.03832, eq. 2) on products instead of distances."""

    class Config(ItemPairsConfig):
        """Each item of a pair is compared with items drawn over the catalogue."""

        kind: Literal["triplet"] = "triplet"
        loss: Annotated[FrozenConfig, OneOf(OBJECTIVES, default="triplet")] = Field(
            {"kind": "triplet", "negatives": 4}, validate_default=True
        )
        """What is minimised."""
