"""How point-wise tasks mix the experts of a sharing, over the targets that they are evaluated by."""

import torch
from torch import Tensor

from raysys.data.batches import Targets
from raysys.evaluation.protocol import Gates
from raysys.model.recommender import Encoded
from raysys.tasks.multitask import MultiTask


class GateMeter:
    """Adds up gates batch by batch: what it holds is one number per task and expert.

    Nothing is computed for it: it reads what the towers of the batch were given. Legend: N valid targets, X experts.
    """

    def __init__(self, network: MultiTask) -> None:
        head, scorers = network.recommender.pair_head, network.pair_scorers()
        names = {} if head is None else head.sharing.expert_names()
        self.experts = {task: experts for task, experts in names.items() if task in scorers}
        self._scorers = scorers
        self._sums: dict[str, Tensor] = {}  # f64 [1 + X]: targets, then the sum of their gates

    def add(self, encoded: Encoded, targets: Targets) -> None:
        """Take in the targets [B, C] of a batch whose labels are known to a task, for each task."""
        if not self.experts:
            return
        gates = encoded.shared(targets).gates
        for task in self.experts:
            known_N = self._scorers[task].truth(targets)[targets.mask_BC].isfinite().double()
            sums = torch.cat([known_N.sum().reshape(1), known_N @ gates[task].double()])
            self._sums[task] = self._sums[task] + sums if task in self._sums else sums

    def means(self) -> Gates:
        """Return the means so far; a task without a target is left out."""
        found = {}
        for task, sums in self._sums.items():
            count, *shares = sums.tolist()
            if count:
                named = zip(self.experts[task], shares, strict=True)
                found[task] = {expert: share / count for expert, share in named}
        return found
