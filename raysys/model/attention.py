"""Attention: torch's own, but for dropout of its weights on a CPU, where torch would keep every matrix of weights.

There weights are made for a few users at a time, while they fit into the cache, and made again in the backward pass.

Shapes: B users, H heads, L positions, E = D / H; G users of a group.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raysys.model.dropout import draw_kept

_GROUP_BYTES = 1 << 20


def attend(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, seen_BL: Tensor | None, dropout: float) -> Tensor:
    """Return softmax(q k^T / sqrt(E)) v, [B, H, L, E], with a share of the weights left out.

    Every position sees those that `seen_BL` marks, at least one; without it, itself and earlier ones.
    """
    if dropout and q_BHLE.device.type == "cpu" and not torch.compiler.is_compiling():
        mixed: Tensor = _Dropping.apply(q_BHLE, k_BHLE, v_BHLE, seen_BL, dropout)  # type: ignore[no-untyped-call]
        return mixed
    mask = None if seen_BL is None else seen_BL[:, None, None, :]
    return F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, mask, dropout, is_causal=mask is None)


class _Dropping(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, seen_BL: Tensor | None, dropout: float
    ) -> Tensor:
        kept_BHLL = torch.empty(*q_BHLE.shape[:3], q_BHLE.shape[2], dtype=torch.uint8)
        out_BHLE = torch.empty_like(v_BHLE)
        for group in _groups(kept_BHLL, v_BHLE):
            weights = _weights(q_BHLE[group], k_BHLE[group], None if seen_BL is None else seen_BL[group])
            kept, ctx.scale = draw_kept(weights.shape, dropout)
            kept_BHLL[group] = kept
            torch.matmul(weights.mul_(kept).mul_(ctx.scale), v_BHLE[group], out=out_BHLE[group])
        ctx.save_for_backward(q_BHLE, k_BHLE, v_BHLE, seen_BL, kept_BHLL)
        return out_BHLE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BHLE, k_BHLE, v_BHLE, seen_BL, kept_BHLL = ctx.saved_tensors
        dq_BHLE, dk_BHLE, dv_BHLE = (torch.empty_like(part) for part in (q_BHLE, k_BHLE, v_BHLE))
        for group in _groups(kept_BHLL, v_BHLE):
            q, k, v, kept, dout = (part[group] for part in (q_BHLE, k_BHLE, v_BHLE, kept_BHLL, grads[0]))
            weights = _weights(q, k, None if seen_BL is None else seen_BL[group])
            torch.matmul((weights * kept).mul_(ctx.scale).transpose(-2, -1), dout, out=dv_BHLE[group])
            dweights = (dout @ v.transpose(-2, -1)).mul_(kept).mul_(ctx.scale)
            dweights.mul_(weights)
            dscores = torch.addcmul(dweights, weights, dweights.sum(-1, keepdim=True), value=-1)
            dscores.mul_(q.shape[-1] ** -0.5)
            torch.matmul(dscores, k, out=dq_BHLE[group])
            torch.matmul(dscores.transpose(-2, -1), q, out=dk_BHLE[group])
        return dq_BHLE, dk_BHLE, dv_BHLE, None, None


def _weights(q_GHLE: Tensor, k_GHLE: Tensor, seen_GL: Tensor | None) -> Tensor:
    """Return the weights [G, H, L, L] before dropout."""
    scores = (q_GHLE @ k_GHLE.transpose(-2, -1)).mul_(q_GHLE.shape[-1] ** -0.5)
    if seen_GL is None:
        scores += scores.new_full(scores.shape[-2:], -torch.inf).triu_(1)
    else:
        scores.masked_fill_(~seen_GL[:, None, None, :], -torch.inf)
    return torch.softmax(scores, -1, out=scores)


def _groups(kept_BHLL: Tensor, like: Tensor) -> Iterator[slice]:
    """Cut the users into groups whose weights take so many bytes."""
    size = max(1, _GROUP_BYTES // (kept_BHLL[0].numel() * like.element_size()))
    return (slice(start, start + size) for start in range(0, len(kept_BHLL), size))
