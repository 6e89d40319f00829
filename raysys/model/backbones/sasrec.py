"""SASRec: self-attention over the history (Kang and McAuley, 2018, arXiv 1808.09781), with pre-norm blocks."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.model.backbones.backbone import Backbone


class SASRec(Backbone):
    """Causal transformer with learned positions, counted from the oldest token of the window."""

    class Config(FrozenConfig):
        """SASRec's size."""

        kind: Literal["sasrec"] = "sasrec"
        num_blocks: int = Field(2, ge=1)
        num_heads: int = Field(1, ge=1)
        feedforward_multiple: float = Field(1.0, gt=0)
        """Inner width of the feed-forward layers, in widths."""
        attention_dropout: float = Field(0.0, ge=0, lt=1)
        """Above 0 leaves the fast attention path on a CPU."""

    def __init__(self, config: Config, width: int, max_length: int, dropout: float) -> None:
        super().__init__(config, width, max_length, dropout)
        if width % config.num_heads:
            raise ValueError(f"model.backbone.num_heads: {config.num_heads} does not divide model.width {width}")
        self.scale = width**0.5
        self.position = nn.Embedding(max_length, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, width, dropout) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor, times_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Attend causally. Histories are padded at the end, so that causality alone keeps padding out of states."""
        x_BLD = self.dropout(x_BLD * self.scale + self.position.weight[: x_BLD.shape[1]])
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.norm(x_BLD)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each on a residual branch."""

    def __init__(self, config: SASRec.Config, width: int, dropout: float) -> None:
        super().__init__()
        inner = int(width * config.feedforward_multiple)
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return [B, L, D]."""
        x_BLD = x_BLD + self.dropout(self.out(self._attend(self.attention_norm(x_BLD))))
        return x_BLD + self.dropout(self.feedforward(self.feedforward_norm(x_BLD)))

    def _attend(self, x_BLD: Tensor) -> Tensor:
        num_users, length, width = x_BLD.shape
        shape = (num_users, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = self.qkv(x_BLD).view(shape).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return mixed.transpose(1, 2).reshape(num_users, length, width)
