"""Conversion given another yes, learned over everything that was shown: ESMM (Ma et al., 2018, arXiv 1804.07931)."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raysys.data.batches import Targets
from raysys.errors import UserError, nearest
from raysys.model.recommender import Encoded
from raysys.tasks.binary import Binary, BinaryConfig
from raysys.tasks.task import Task, TaskContext


class Conversion(Binary):
    """p(click and conversion) = p(click) x p(conversion given click), equation 1.

    The tower learns the second factor, although it is only ever judged by the product: what was shown and not clicked
    teaches it too, so that it is right for all that is shown, not only for what people happen to click.
    """

    class Config(BinaryConfig):
        """The label, and the task that comes before it."""

        kind: Literal["conversion"] = "conversion"
        given: str = "click"
        """Name of the task that has to come first; a task of the same run that predicts a probability."""

    def __init__(self, config: Config, context: TaskContext) -> None:
        super().__init__(config, context)
        self.given = config.given
        if config.keep_negatives != 1:
            raise UserError(f"tasks.{context.name}.keep_negatives: a product of two chances cannot be corrected for it")

    def link(self, tasks: Mapping[str, Task]) -> None:
        """Find the task that comes first.

        Raises:
            UserError: the run has no such task, or it predicts no probability of this kind.
        """
        others = [name for name in tasks if name != self.name]
        if self.given not in others:
            raise UserError(
                f"tasks.{self.name}.given: no task {self.given!r}{nearest(self.given, others)} beside it "
                f"(there are: {', '.join(others) or 'none'})"
            )
        first = tasks[self.given]
        if not isinstance(first, Binary) or isinstance(first, Conversion):
            raise UserError(f"tasks.{self.name}.given: {self.given!r} is no binary task such as click")
        self._first = (first,)  # in a tuple, because the task's parameters are not this one's

    def logits(self, encoded: Encoded, targets: Targets) -> Tensor:
        """Return the logit of the product, log(p / (1 - p)), [B, C]."""
        (first,) = self._first
        log_first = F.logsigmoid(first.logits(encoded, targets) + math.log(first.keep_negatives))  # as `predict` does
        log_both = log_first + F.logsigmoid(super().logits(encoded, targets))
        return log_both - torch.log(-torch.expm1(log_both.clamp(max=-1e-6)))

    def truth(self, targets: Targets) -> Tensor:
        """Return the label, and 0 for who did not do the first: he did not convert either, whatever the label says."""
        (first,) = self._first
        passed_BC = first.truth(targets) < first.positive_from
        return torch.where(passed_BC, 0.0, super().truth(targets))
