"""Losses as plain functions. Each returns a sum over rows, so that means can be taken over all ranks.

Shapes: N rows (one target each), V items, K negatives per row. A negative that shall not count has the score -inf.
"""

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# What the compressed rows of `item_scores` need; torch warns once of a beta.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

_CHUNK_BYTES = {"cpu": 16 << 20}
_CHUNK_BYTES_ELSEWHERE = 512 << 20
_SUMMED_ITEMS = 8192
_SCRATCH: dict[torch.device, Tensor] = {}
_ROUND_ROWS = 32  # oneDNN keeps megabytes for every size of product that it meets: let there be few
_SOFTMAX_ROWS = {"cpu": 128}  # rows whose logits stay in the cache between the passes over them; elsewhere a chunk


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy over all items; the gradient is made chunk by chunk in the forward, logits are never kept."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, table_VD: Tensor, targets_N: Tensor, precision: torch.dtype
    ) -> Tensor:  # scalar
        table, total = table_VD.to(precision), states_ND.new_zeros(())
        room = max(_chunk_bytes(table) // (len(table) * table.element_size()) // _ROUND_ROWS, 1) * _ROUND_ROWS
        size = min(room, _SOFTMAX_ROWS.get(table.device.type, max(_rounded(len(states_ND)), _ROUND_ROWS)))
        chunk = room // size * size
        grad_states_ND, grad_table_VD = torch.empty_like(states_ND), torch.zeros_like(table_VD)
        for start in range(0, len(states_ND), chunk):
            states, targets = states_ND[start : start + chunk], targets_N[start : start + chunk].unsqueeze(1)
            rows = F.pad(states.to(precision), (0, 0, 0, -len(states) % size))
            weights = _scratch(len(rows), len(table), table)
            for at in range(0, len(rows), size):
                rest = len(targets) - at
                part = slice(at, at + min(_rounded(rest), size))
                total += _softmax_gradient(rows[part], table, targets[part], weights[part])
                weights[part.stop : at + size] = 0
                gradient = weights[part] @ table
                grad_states_ND[start + at : start + at + len(gradient)] = gradient[: len(targets) - at]
            grad_table_VD += weights.T @ rows  # over as many rows as fit: the sum is what costs memory traffic
        ctx.save_for_backward(grad_states_ND, grad_table_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states_ND, grad_table_VD = ctx.saved_tensors
        return grad_states_ND * grads[0], grad_table_VD * grads[0], None, None


def _softmax_gradient(rows: Tensor, table: Tensor, targets: Tensor, out: Tensor) -> Tensor:
    """Write softmax(rows table^T) minus one at the targets into `out`, 0 in rows that have none; return the loss."""
    torch.mm(rows, table.T, out=out)
    torch.softmax(out, 1, out=out)  # f32 inside, whatever the precision
    out[len(targets) :] = 0
    out = out[: len(targets)]
    chances = out.gather(1, targets)
    losses = -chances.float().log().squeeze(1)
    lost = losses.isinf()  # a chance too small for the format: the gradient is right, the value is made again
    if out.device.type != "cpu":  # to ask whether there are any would wait for the device
        losses = torch.where(lost, _from_the_best(rows, table, targets, out), losses)
    elif lost.any():
        losses[lost] = _from_the_best(rows[: len(targets)][lost], table, targets[lost], out[lost])
    out.scatter_(1, targets, chances - 1)
    return losses.sum()


def _from_the_best(rows: Tensor, table: Tensor, targets: Tensor, chances: Tensor) -> Tensor:
    """Return -log softmax at the targets by way of the best item, whose chance is never too small to be held."""
    top, best = chances.max(1, keepdim=True)
    ahead = table[best.squeeze(1)].float() - table[targets.squeeze(1)].float()
    return (rows[: len(targets)].float() * ahead).sum(1) - top.float().log().squeeze(1)


def _rounded(rows: int) -> int:
    return rows + -rows % _ROUND_ROWS


def _chunk_bytes(like: Tensor) -> int:
    return _CHUNK_BYTES.get(like.device.type, _CHUNK_BYTES_ELSEWHERE)


def _scratch(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return memory to write over, the same at every call.

    Buffers of another size at every step would cut the allocator's memory into pieces, until it holds gigabytes.
    """
    wanted = rows * columns * like.element_size()
    kept = _SCRATCH.get(like.device)
    if kept is None or kept.numel() < wanted:
        with torch.inference_mode(False):
            size = max(wanted, _chunk_bytes(like))
            kept = _SCRATCH[like.device] = torch.empty(size, dtype=torch.uint8, device=like.device)
    return kept[:wanted].view(like.dtype).view(rows, columns)


def full_softmax(
    states_ND: Tensor, table_VD: Tensor, targets_N: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """Return the sum over rows of -log softmax(states table^T)[target].

    At most 16 MiB of logits (512 MiB on a GPU), or the logits of 32 rows, exist at a time. `precision` is that of the
    three matrix products and of the weights between them; the softmax itself is f32.
    """
    return _FullSoftmax.apply(  # type: ignore[no-untyped-call]
        states_ND, table_VD, targets_N, precision
    )


def fast_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a device that multiplies it itself (with AVX-512 BF16 or AMX, a GPU from Ampere on)."""
    if device.type == "cuda":
        own = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        own = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if own else torch.float32


class _ItemScores(torch.autograd.Function):
    """Dot products of each state with its own items, without a copy of the items' vectors [N, K, D]."""

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, table_VD: Tensor, items_NK: Tensor) -> Tensor:
        ctx.save_for_backward(states_ND, table_VD, items_NK)
        if states_ND.device.type != "cpu" or items_NK.shape[1] > len(table_VD):  # the pattern holds no more than N x V
            return torch.einsum("nd,nkd->nk", states_ND, table_VD[items_NK])
        offsets = torch.arange(0, items_NK.numel() + 1, items_NK.shape[1])
        size = (len(states_ND), len(table_VD))
        pattern = torch.sparse_csr_tensor(
            offsets, items_NK.reshape(-1), states_ND.new_zeros(items_NK.numel()), size, check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, states_ND, table_VD.T).values().view_as(items_NK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states_ND, table_VD, items_NK = ctx.saved_tensors
        weights_NK = grads[0].contiguous()
        grad_states_ND = F.embedding_bag(items_NK, table_VD, mode="sum", per_sample_weights=weights_NK)
        flat, order = items_NK.reshape(-1).int().sort(stable=True)
        weights = weights_NK.view(-1)[order]
        rows = order.div_(items_NK.shape[1], rounding_mode="floor").int()
        del order
        present, counts = flat.unique_consecutive(return_counts=True)
        starts = F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
        del flat, counts  # as many as items are drawn: what is kept of them decides how memory grows
        grad_table_VD = torch.zeros_like(table_VD)
        for at in range(0, len(present), _SUMMED_ITEMS):  # so that memory does not grow with the items drawn
            bags = starts[at : at + _SUMMED_ITEMS + 1]
            part = slice(int(bags[0]), int(bags[-1]))
            grad_table_VD[present[at : at + _SUMMED_ITEMS].long()] = F.embedding_bag(
                rows[part], states_ND, bags[:-1] - bags[0], mode="sum", per_sample_weights=weights[part]
            )
        return grad_states_ND, grad_table_VD, None


def item_scores(states_ND: Tensor, table_VD: Tensor, items_NK: Tensor) -> Tensor:
    """Return states[n] . table[items[n, k]], f32 [N, K]; on a CPU in memory O(N x K) and 10 times as fast as gather."""
    return _ItemScores.apply(states_ND, table_VD, items_NK)  # type: ignore[no-untyped-call]


def sampled_softmax(positive_N: Tensor, negative_NK: Tensor) -> Tensor:
    """Return the sum over rows of -log softmax of the positive among itself and its negatives.

    With negatives' scores lowered by the log of how often each was expected among the draws, the sum of exponentials
    is an unbiased estimate of the full one (Bengio and Senecal, 2008, eq. 6; the positive is not corrected, as in
    Khrylchenko et al., 2025, arXiv 2507.09331).
    """
    scores = torch.cat([positive_N.unsqueeze(1), negative_NK], dim=1)
    return (scores.logsumexp(1) - positive_N).sum()


def binary_cross_entropy(positive_N: Tensor, negative_NK: Tensor) -> Tensor:
    """Return the sum over rows of the mean of -log sigmoid(positive) and every -log(1 - sigmoid(negative)).

    SASRec's loss (Kang and McAuley, 2018, eq. 8) for K = 1.
    """
    return generalised_binary_cross_entropy(positive_N, negative_NK, 1.0)


def generalised_binary_cross_entropy(positive_N: Tensor, negative_NK: Tensor, power: float) -> Tensor:
    """Binary cross-entropy whose positive probability is raised to a power: gBCE (Petrov and Macdonald, 2023, eq. 9).

    `power` is beta of `gbce_power`; with 1 it is plain binary cross-entropy.
    """
    losses_N = power * F.softplus(-positive_N) + F.softplus(negative_NK).sum(1)
    return losses_N.sum() / (1 + negative_NK.shape[1])


def gbce_power(num_negatives: int, num_items: int, calibration: float) -> float:
    """Return beta = alpha (t (1 - 1/alpha) + 1/alpha), alpha = K / (V - 1) (Petrov and Macdonald, 2023, eq. 14).

    t = 0 is plain binary cross-entropy, t = 1 makes predicted probabilities those of the full softmax.
    """
    rate = min(num_negatives / max(num_items - 1, 1), 1.0)
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def bayesian_personalised_ranking(positive_N: Tensor, negative_NK: Tensor) -> Tensor:
    """Return the sum over rows of the mean of -log sigmoid(positive - negative) (Rendle et al., 2009, section 4.1)."""
    return F.softplus(negative_NK - positive_N.unsqueeze(1)).sum() / negative_NK.shape[1]


def triplet(positive_N: Tensor, negative_NK: Tensor, margin: float) -> Tensor:
    """Return the sum over rows of the mean of max(0, margin + negative - positive), the hinge of a triplet."""
    return F.relu(margin + negative_NK - positive_N.unsqueeze(1)).sum() / negative_NK.shape[1]


def mixed_negatives(negative_NK: Tensor, pairs_NM2: Tensor, shares_NM: Tensor) -> Tensor:
    """Return scores [N, M] of synthetic hard negatives: convex mixes of pairs of the hardest drawn ones.

    MoCHi (Kalantidis et al., 2020, arXiv 2010.01028, eq. 4) without the renormalisation: a score is linear in the
    item's vector, so mixing scores is mixing items.

    Args:
        negative_NK: scores of the drawn negatives.
        pairs_NM2: which two, by rank of hardness from 0.
        shares_NM: weight of the first of each pair, in [0, 1).
    """
    deepest = int(pairs_NM2.max()) + 1 if pairs_NM2.numel() else 1
    hardest = negative_NK.topk(min(deepest, negative_NK.shape[1]), dim=1).values
    first, second = (hardest.gather(1, pairs_NM2[..., side].clamp(max=hardest.shape[1] - 1)) for side in (0, 1))
    low = torch.minimum(first, second)
    mixed = shares_NM * first + (1 - shares_NM) * second
    return torch.where(low == -math.inf, low, mixed)


def squared_error(predictions_N: Tensor, labels_N: Tensor) -> Tensor:
    """Return the sum over rows of (prediction - label)^2."""
    return F.mse_loss(predictions_N, labels_N, reduction="sum")
