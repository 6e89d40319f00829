"""HSTU: hierarchical sequential transduction units (Zhai et al., 2024, arXiv 2402.17152)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import History
from raysys.model.backbones.backbone import Backbone, ModelContext
from raysys.model.backbones.transformer import fitting_heads
from raysys.model.dropout import Dropout
from raysys.model.items.encoder import ItemVectors

_NEVER = -1e4  # silu of it is 0, and so is the slope: a bias like this hides a position
_BUCKETS_PER_DOUBLING = 2
_BUCKETS = 2 + _BUCKETS_PER_DOUBLING * 31  # up to 68 years in seconds; the last stands for the future


class HSTU(Backbone):
    """Attention without softmax, so that many tokens of one taste weigh more than one; it knows the time between them.

    Bias and buckets of time are made once and shared by all blocks. The time of a query is that of its own token, so
    that nothing of what comes next is needed to ask. The paper's division by the length is left to the norm after it.
    """

    class Config(FrozenConfig):
        """HSTU's size."""

        kind: Literal["hstu"] = "hstu"
        num_blocks: int = Field(2, ge=1)
        num_heads: int = Field(1, ge=1)

    def __init__(self, config: Config, context: ModelContext) -> None:
        super().__init__(config, context)
        self.dropout = Dropout(context.dropout)
        self.bias = RelativeBias(context.max_length)
        self.blocks = nn.ModuleList(TransductionUnit(config, context) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(context.width)

    def forward(self, history: History, vectors: ItemVectors) -> Tensor:
        """Attend causally. Histories are padded at the end, so that causality alone keeps padding out of states."""
        bias_BLL = self.bias(history.times_BL)
        x_BLD = self.dropout(self.tokens(history, vectors))
        for block in self.blocks:
            x_BLD = block(x_BLD, bias_BLL)
        return self.norm(x_BLD)


class RelativeBias(nn.Module):
    """Learned bias of attention by how many tokens and how much time lie between two (the paper's rab^{p,t})."""

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.places_L = nn.Parameter(torch.randn(max_length) * 0.02)
        self.times_T = nn.Parameter(torch.randn(_BUCKETS - 1) * 0.02)

    def forward(self, times_BL: Tensor) -> Tensor:
        """Return the bias [B, L, L] of a query (row) and a key (column); one in the future is hidden by it."""
        length = times_BL.shape[1]
        places_L = torch.arange(length, device=times_BL.device)
        back_LL = places_L.unsqueeze(1) - places_L
        table_T = F.pad(self.times_T, (0, 1), value=_NEVER)
        buckets_BLL = time_buckets(times_BL)
        # index_select, because the backward of table[buckets] sorts
        over_time_BLL = table_T.index_select(0, buckets_BLL.view(-1)).view(buckets_BLL.shape)
        return over_time_BLL + self.places_L[back_LL.clamp(min=0)]


def time_buckets(times_BL: Tensor) -> Tensor:
    """Return the bucket, i64 [B, L, L], of the time from each key (column) to each query (row).

    Two buckets for every doubling of the seconds between: a float32's exponent and the first bit of its mantissa, one
    subtraction and one shift instead of a logarithm. What lies in the future has the last bucket.
    """
    seconds_BL = ((times_BL - times_BL[:, :1]) // 1000).clamp(min=0, max=(1 << 31) - 1).to(torch.int32)
    between_BLL = seconds_BL.unsqueeze(2) - seconds_BL.unsqueeze(1)
    bits_BLL = between_BLL.clamp_(min=0).float().add_(1).view(torch.int32)
    one = 127 * _BUCKETS_PER_DOUBLING  # the exponent of 1.0
    buckets_BLL = bits_BLL.bitwise_right_shift_(22).sub_(one).clamp_(max=_BUCKETS - 2)
    future_LL = torch.ones(buckets_BLL.shape[1:], dtype=torch.bool, device=times_BL.device).triu_(1)
    return buckets_BLL.masked_fill_(future_LL, _BUCKETS - 1).long()


class TransductionUnit(nn.Module):
    """One block: silu attention, gated by a fourth projection (equations 1 to 3)."""

    def __init__(self, config: HSTU.Config, context: ModelContext) -> None:
        super().__init__()
        self.num_heads = fitting_heads(config.num_heads, context)
        self.norm = nn.LayerNorm(context.width)
        self.uvqk = nn.Linear(context.width, 4 * context.width)
        self.mixed_norm = nn.LayerNorm(context.width)
        self.dropout = Dropout(context.dropout)
        self.out = nn.Linear(context.width, context.width)

    def forward(self, x_BLD: Tensor, bias_BLL: Tensor) -> Tensor:
        """Return [B, L, D]."""
        u_BLD, v_BLD, q_BLD, k_BLD = F.silu(self.uvqk(self.norm(x_BLD))).chunk(4, dim=-1)
        q, k, v = (self._apart(part) for part in (q_BLD, k_BLD, v_BLD))
        bias = bias_BLL.repeat_interleave(self.num_heads, 0) if self.num_heads > 1 else bias_BLL
        scores = torch.baddbmm(bias, q, k.transpose(1, 2))
        mixed = (F.silu(scores) @ v).view(x_BLD.shape[0], self.num_heads, x_BLD.shape[1], -1)
        mixed_BLD = mixed.transpose(1, 2).reshape(x_BLD.shape)
        return x_BLD + self.out(self.dropout(u_BLD * self.mixed_norm(mixed_BLD)))

    def _apart(self, x_BLD: Tensor) -> Tensor:
        """Return [B x H, L, D / H]."""
        heads = x_BLD.view(*x_BLD.shape[:2], self.num_heads, -1).transpose(1, 2)
        return heads.reshape(-1, heads.shape[2], heads.shape[3])
