"""Inner products of task gradients at the shared activations: what gradient-balancing weightings see of a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raysys.training.parallel import Parallel


def task_gram(losses_T: Tensor, shared: Sequence[Tensor], parallel: Parallel) -> Tensor:
    """Return G [T, T], G[i, j] = <d loss_i / d states, d loss_j / d states>, summed over ranks.

    `shared` are the states after tokens and those before the first one, each user's own rows of them.

    Gradients at activations of different users stand side by side, so inner products add up over ranks: one tiny
    all-reduce, and parameters' hooks stay untouched. The graph is kept for the one backward pass that follows.
    """
    rows = []
    for loss in losses_T:
        grads = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True, allow_unused=True)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    gradients_TP = torch.stack(rows)
    return parallel.sum(gradients_TP @ gradients_TP.T)
