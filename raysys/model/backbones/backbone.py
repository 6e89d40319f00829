"""The contract of a backbone: token vectors in, one state per position out."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from raysys.component import FrozenConfig


class Backbone(nn.Module):
    """Turns token vectors into states. The state at position t may know tokens 0..t only (tested for every one)."""

    Config: ClassVar[type[FrozenConfig]]

    @abstractmethod
    def __init__(self, config: FrozenConfig, width: int, max_length: int, dropout: float) -> None:
        """Build the layers for states of the given width and histories of at most `max_length` tokens."""
        super().__init__()

    @abstractmethod
    def forward(self, x_BLD: Tensor, times_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return states [B, L, D]; what stands after the end of a history is of no meaning."""
