"""Probabilities learnt where some negatives were left out, as they would be without."""

from torch import Tensor


def undo_downsampling(probability: Tensor, kept: float) -> Tensor:
    """Return p / (p + (1 - p) / kept) for probabilities p learnt with a share `kept` of the negatives, any shape.

    He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook" (2014), equation 4.

    Raises:
        ValueError: `kept` is not in (0, 1].
    """
    if not 0 < kept <= 1:
        raise ValueError(f"kept: {kept}; the share of the negatives that training kept is above 0 and at most 1")
    return probability / (probability + (1 - probability) / kept)
