"""Similar item: which items are consumed near which, learned by contrast."""

from typing import Annotated, Literal

from pydantic import Field

from raysys.component import FrozenConfig, OneOf
from raysys.tasks.item_pairs import ItemPairs, ItemPairsConfig
from raysys.tasks.objectives import OBJECTIVES


class SimilarItem(ItemPairs):
    """Contrast over co-consumption, symmetric, with the logQ correction of the sampled softmax.

    item2vec (Barkan and Koenigstein, 2016, arXiv 1603.04259) with one table for both sides and the loss of CLIP
    (Radford et al., 2021, arXiv 2103.00020, figure 3).
    """

    class Config(ItemPairsConfig):
        """By default the other items of the step are the negatives, and some drawn over the catalogue."""

        kind: Literal["similar_item"] = "similar_item"
        loss: Annotated[FrozenConfig, OneOf(OBJECTIVES, default="sampled_softmax")] = Field(
            {"kind": "sampled_softmax", "negatives": 16, "in_batch": 240}, validate_default=True
        )
        """What is minimised."""
