"""BERT4Rec: attention in both directions over a history with masked tokens (Sun et al., 2019, arXiv 1904.06690)."""

from typing import Literal

from pydantic import Field
from torch import nn

from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.transformer import Block, Transformer, TransformerConfig, feedforward


class BERT4Rec(Transformer):
    """Transformer whose states know the whole history; it learns with the task masked_item.

    Unlike the paper's, norms stand before the branches, as in the other transformers here; and the state itself, not a
    further layer over it, is compared with items.
    """

    bidirectional = True

    class Config(TransformerConfig):
        """BERT4Rec's size."""

        kind: Literal["bert4rec"] = "bert4rec"
        feedforward_multiple: float = Field(4.0, gt=0)
        """Inner width of the feed-forward layers, in widths."""

    def block(self, config: TransformerConfig, context: ModelContext) -> nn.Module:
        """Return a block with a feed-forward of GELU."""
        return Block(config, context, feedforward(config, context, nn.GELU()))
