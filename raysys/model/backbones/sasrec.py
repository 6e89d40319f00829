"""SASRec: self-attention over the history (Kang and McAuley, 2018, arXiv 1808.09781), with pre-norm blocks."""

from typing import Literal

from torch import nn

from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.transformer import Block, Transformer, TransformerConfig, feedforward


class SASRec(Transformer):
    """Causal transformer."""

    class Config(TransformerConfig):
        """SASRec's size."""

        kind: Literal["sasrec"] = "sasrec"

    def block(self, config: TransformerConfig, context: ModelContext) -> nn.Module:
        """Return a block with a feed-forward of ReLU."""
        return Block(config, context, feedforward(config, context, nn.ReLU()))
