"""The weightings of torchjd that take a Gramian, by name. Needs torchjd: only `gramian` imports this module.

Left out: torchjd's ExcessMTL and NashMTL, which want the gradients themselves; MoDo and SDMGrad, which want them from
two batches; Mean, Sum, Constant and Random, which look at nothing. Nash-MTL's weights are here all the same: its
condition G w = 1 / w is FairGrad's for alpha 1.
"""

from collections.abc import Callable

import numpy as np
import scipy  # its parts are loaded when they are first used: training needs none
import torch
from torch import Tensor
from torchjd.aggregation import (
    AlignedMTLWeighting,
    CAGradWeighting,
    DualProjWeighting,
    FairGradWeighting,
    GradVacWeighting,
    IMTLGWeighting,
    KrumWeighting,
    MGDAWeighting,
    PCDWeighting,
    PCGradWeighting,
    UPGradWeighting,
    Weighting,
)
from torchjd.linalg import DualConeProjector

Method = Callable[[Tensor, Tensor], Tensor]
"""(gram [K, K], memory [K, K], changed in place) -> weights [K], none below 0."""

_FEWEST_OF_KRUM = 3
_EVALUATIONS = 40  # of FairGrad's equations: enough where they have a solution, and an end where they have none
_RIDGE = 1e-4  # as in torchjd's projector, of a matrix whose diagonal sums to 1


def build_method(name: str, parameter: float) -> Method:
    """Return a method with its one parameter, which is ignored by those that have none."""
    return _BUILDERS[name](parameter)


class _Projector(DualConeProjector):
    """Minimises v'Gv over v >= u by non-negative least squares: torchjd's own asks for a solver under the GPL."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        ridge = _RIDGE * torch.eye(len(G), dtype=G.dtype)
        root = torch.linalg.cholesky(G / G.diagonal().sum() + ridge).T.numpy()
        found = np.stack([u + scipy.optimize.nnls(root, -root @ u)[0] for u in U.reshape(-1, len(G)).numpy()])
        return torch.from_numpy(found).reshape(U.shape)


def _as_is(weighting: Weighting) -> Method:
    return lambda gram_KK, _: weighting(gram_KK)


def _mean_to_sum(weighting: Weighting) -> Method:
    """Scale weights of a mean to those of a sum: tasks without conflict weigh 1, as under fixed weights."""
    return lambda gram_KK, _: weighting(gram_KK) * len(gram_KK)


def _ratios(weighting: Weighting) -> Method:
    """Take the ratios alone, of methods whose weights shrink with the smallest gradient or grow when two cancel out."""
    return lambda gram_KK, _: _as_long(weighting(gram_KK), gram_KK)


def _as_long(weights_K: Tensor, gram_KK: Tensor) -> Tensor:
    """Scale weights so that the squared norms of the weighted gradients sum to those of the gradients.

    So the learning rate means what it means under fixed weights. A weight below 0 would make the task's own head
    unlearn: it becomes 0.
    """
    weights_K = weights_K.clamp(min=0)
    lengths_K = gram_KK.diagonal()
    found = (weights_K.square() * lengths_K).sum()
    return weights_K * (lengths_K.sum() / found).sqrt() if found > 0 else weights_K


def _fair(alpha: float) -> Method:
    """Solve G w = w^(-1 / alpha) for u = w / e with e = norm^(-2 alpha / (1 + alpha)).

    In u the diagonal of the system is 1, whatever the scales of the gradients: torchjd's solver starts from equal u
    and would not get from there to weights that lie orders of magnitude apart.
    """
    weighting = FairGradWeighting(alpha, max_iters=_EVALUATIONS)

    def solve(gram_KK: Tensor, memory_KK: Tensor) -> Tensor:
        scales_K = gram_KK.diagonal() ** (-alpha / (1 + alpha))
        weights_K = weighting(scales_K[:, None] ** (1 / alpha) * gram_KK * scales_K) * scales_K
        return _as_long(weights_K, gram_KK)

    return solve


def _vaccine(beta: float) -> Method:
    weighting = GradVacWeighting(beta)

    def solve(gram_KK: Tensor, memory_KK: Tensor) -> Tensor:
        # The cosines that it aims at are private to torchjd's class, and tied to a number of rows; those of all tasks
        # live in a buffer of ours, so that checkpoints hold them and absent tasks keep theirs.
        weighting._phi_t = memory_KK  # type: ignore[assignment]
        weighting._state_key = len(gram_KK), gram_KK.dtype
        weights_K: Tensor = weighting(gram_KK)
        return weights_K

    return solve


def _krum() -> Method:
    one = _ratios(KrumWeighting(n_byzantine=0))

    def solve(gram_KK: Tensor, memory_KK: Tensor) -> Tensor:
        if len(gram_KK) < _FEWEST_OF_KRUM:
            return torch.ones(len(gram_KK), dtype=gram_KK.dtype)
        return one(gram_KK, memory_KK)

    return solve


_BUILDERS: dict[str, Callable[[float], Method]] = {
    "upgrad": lambda _: _mean_to_sum(UPGradWeighting(projector=_Projector())),
    "dualproj": lambda _: _mean_to_sum(DualProjWeighting(projector=_Projector())),
    "cagrad": lambda c: _mean_to_sum(CAGradWeighting(c)),
    "pcgrad": lambda _: _as_is(PCGradWeighting()),
    "gradvac": _vaccine,
    "mgda": lambda _: _ratios(MGDAWeighting()),
    "imtl_g": lambda _: _ratios(IMTLGWeighting()),
    "aligned_mtl": lambda _: _ratios(AlignedMTLWeighting()),
    "nash_mtl": lambda _: _fair(1.0),
    "fairgrad": _fair,
    "pcd": lambda tau: _ratios(PCDWeighting(tau, beta=0.0)),  # this step's norms, no running mean: no state
    "krum": lambda _: _krum(),
}
