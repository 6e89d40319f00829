"""What the backbones of attention have in common: tokens with learned positions, blocks, a norm at the end."""

from abc import abstractmethod

from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import History
from raysys.model.attention import attend
from raysys.model.backbones.backbone import Backbone, ModelContext
from raysys.model.dropout import Dropout
from raysys.model.items.encoder import ItemVectors


class TransformerConfig(FrozenConfig):
    """Size of a transformer."""

    num_blocks: int = Field(2, ge=1)
    num_heads: int = Field(1, ge=1)
    feedforward_multiple: float = Field(1.0, gt=0)
    """Inner width of the feed-forward layers, in widths."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Of the weights with which positions are mixed; above 0, attention takes about twice the time."""


class Transformer(Backbone):
    """Positions are learned, and counted from the oldest token of the window."""

    def __init__(self, config: TransformerConfig, context: ModelContext) -> None:
        super().__init__(config, context)
        # A bidirectional one also sees the token that stands for what comes next.
        self.position = nn.Embedding(context.max_length + self.bidirectional, context.width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = Dropout(context.dropout)
        self.blocks = nn.ModuleList(self.block(config, context) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(context.width)

    @abstractmethod
    def block(self, config: TransformerConfig, context: ModelContext) -> nn.Module:
        """Return a new block, called with x_BLD and the visible positions as `SelfAttention` is."""

    def forward(self, history: History, vectors: ItemVectors) -> Tensor:
        """Attend. Histories are padded at the end, so that causality alone keeps padding out of states."""
        seen_BL = None
        if self.bidirectional:
            seen_BL = history.mask_BL.clone()
            seen_BL[:, 0] = True  # who sees nothing at all would become NaN
        x_BLD = self.tokens(history, vectors)
        x_BLD = self.dropout(x_BLD + self.position.weight[: x_BLD.shape[1]])
        for block in self.blocks:
            x_BLD = block(x_BLD, seen_BL)
        return self.norm(x_BLD)


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017, arXiv 1706.03762, section 3.2)."""

    def __init__(self, config: TransformerConfig, context: ModelContext) -> None:
        super().__init__()
        self.num_heads = fitting_heads(config.num_heads, context)
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(context.width, 3 * context.width)
        self.out = nn.Linear(context.width, context.width)

    def forward(self, x_BLD: Tensor, seen_BL: Tensor | None) -> Tensor:
        """Return [B, L, D]: every position sees those that `seen_BL` marks, or, without it, itself and earlier ones."""
        num_users, length, width = x_BLD.shape
        shape = (num_users, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = self.qkv(x_BLD).view(shape).permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v, seen_BL, self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(num_users, length, width))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each on a residual branch."""

    def __init__(self, config: TransformerConfig, context: ModelContext, feedforward: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(context.width)
        self.attention = SelfAttention(config, context)
        self.feedforward_norm = nn.LayerNorm(context.width)
        self.feedforward = feedforward
        self.dropout = Dropout(context.dropout)

    def forward(self, x_BLD: Tensor, seen_BL: Tensor | None) -> Tensor:
        """Return [B, L, D]."""
        x_BLD = x_BLD + self.dropout(self.attention(self.attention_norm(x_BLD), seen_BL))
        return x_BLD + self.dropout(self.feedforward(self.feedforward_norm(x_BLD)))


def feedforward(config: TransformerConfig, context: ModelContext, activation: nn.Module) -> nn.Module:
    """Return the two layers of a plain feed-forward."""
    inner = int(context.width * config.feedforward_multiple)
    return nn.Sequential(
        nn.Linear(context.width, inner), activation, Dropout(context.dropout), nn.Linear(inner, context.width)
    )


def fitting_heads(num_heads: int, context: ModelContext) -> int:
    """Return the number of heads.

    Raises:
        ValueError: it does not divide the model's width.
    """
    if context.width % num_heads:
        raise ValueError(f"model.backbone.num_heads: {num_heads} does not divide model.width {context.width}")
    return num_heads
