"""LiGR's gated blocks (Borisyuk et al., 2025, arXiv 2502.03417): with them SASRec is eSASRec (arXiv 2508.06450)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.transformer import Block, Transformer, TransformerConfig
from raysys.model.dropout import Dropout


class LiGR(Transformer):
    """Causal transformer whose residual branches are gated."""

    class Config(TransformerConfig):
        """LiGR's size."""

        kind: Literal["ligr"] = "ligr"
        feedforward_multiple: float = Field(4.0, gt=0)
        """Inner width of the feed-forward layers, in widths; they have three matrices each."""

    def block(self, config: TransformerConfig, context: ModelContext) -> nn.Module:
        """Return a gated block."""
        return GatedBlock(config, context, SwiGLU(config, context))


class GatedBlock(Block):
    """x + sigmoid(W x) * branch(norm(x)), for attention and feed-forward each: it learns how much a branch may say."""

    def __init__(self, config: TransformerConfig, context: ModelContext, feedforward: nn.Module) -> None:
        super().__init__(config, context, feedforward)
        self.attention_gate = nn.Linear(context.width, context.width)
        self.feedforward_gate = nn.Linear(context.width, context.width)

    def forward(self, x_BLD: Tensor, seen_BL: Tensor | None) -> Tensor:
        """Return [B, L, D]."""
        branch_BLD = self.dropout(self.attention(self.attention_norm(x_BLD), seen_BL))
        x_BLD = x_BLD + torch.sigmoid(self.attention_gate(x_BLD)) * branch_BLD
        branch_BLD = self.dropout(self.feedforward(self.feedforward_norm(x_BLD)))
        return x_BLD + torch.sigmoid(self.feedforward_gate(x_BLD)) * branch_BLD


class SwiGLU(nn.Module):
    """Feed-forward W3 (silu(W1 x) * W2 x) without biases (Shazeer, 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, config: TransformerConfig, context: ModelContext) -> None:
        super().__init__()
        inner = int(context.width * config.feedforward_multiple)
        self.inward = nn.Linear(context.width, 2 * inner, bias=False)
        self.dropout = Dropout(context.dropout)
        self.outward = nn.Linear(inner, context.width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return [B, L, D]."""
        gate, value = self.inward(x_BLD).chunk(2, dim=-1)
        return self.outward(self.dropout(F.silu(gate) * value))
