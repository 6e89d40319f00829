"""Losses as plain functions. Each returns a sum over rows, so that means can be taken over all ranks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK_ROWS = 128


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy over all items; the gradient is made chunk by chunk in the forward, logits are never kept."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, table_VD: Tensor, targets_N: Tensor, precision: torch.dtype
    ) -> Tensor:  # scalar
        grad_states_ND = torch.empty_like(states_ND)
        grad_table_VD = torch.zeros_like(table_VD)
        table, total = table_VD.to(precision), states_ND.new_zeros(())
        for start in range(0, len(states_ND), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            states, targets = states_ND[rows].to(precision), targets_N[rows].unsqueeze(1)
            logits = (states @ table.T).float()
            highest = logits.amax(dim=1, keepdim=True)
            picked = logits.gather(1, targets) - highest
            weights = logits.sub_(highest).exp_()
            normaliser = weights.sum(dim=1, keepdim=True)
            total += (normaliser.log() - picked).sum()
            weights.div_(normaliser)  # softmax, then minus one at the target: the gradient of the logits
            weights.scatter_add_(1, targets, weights.new_full((1, 1), -1.0).expand_as(targets))
            small = weights.to(precision)
            grad_states_ND[rows] = (small @ table).float()
            grad_table_VD += (small.T @ states).float()
        ctx.save_for_backward(grad_states_ND, grad_table_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states_ND, grad_table_VD = ctx.saved_tensors
        return grad_states_ND * grads[0], grad_table_VD * grads[0], None, None


def full_softmax(
    states_ND: Tensor, table_VD: Tensor, targets_N: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """Return the sum over rows of -log softmax(states table^T)[target]; memory O(128 x V) instead of O(N x V).

    `precision` is that of the three matrix products; the softmax itself is f32.
    """
    return _FullSoftmax.apply(  # type: ignore[no-untyped-call]
        states_ND, table_VD, targets_N, precision
    )


def squared_error(predictions_N: Tensor, labels_N: Tensor) -> Tensor:
    """Return the sum over rows of (prediction - label)^2."""
    return F.mse_loss(predictions_N, labels_N, reduction="sum")
