"""What a user's tokens before a target add up to: how many of each kind, and how their labels lie.

A backbone can learn to count, but has to; a rate over forty events is worth more to a probability than any one of them.

Legend of shapes: N pairs, B users, L positions, K kinds of events, J labels, F columns: K + 2 J.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysys.data.batches import History
from raysys.data.dataset import Dataset
from raysys.data.label_sums import label_sums

_PRIOR = 5.0  # events: weight of the mean of all users beside those of one
_FEW = 3.0  # log of 20 events: where counts are neither small nor large


class HistoryTotals(nn.Module):
    """Running totals of tokens."""

    mean_J: Tensor
    scale_J: Tensor

    def __init__(self, num_events: int, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.num_events, self.labels = num_events, labels
        self.width = num_events + 2 * len(labels)
        """F."""
        self.register_buffer("mean_J", torch.zeros(len(labels)))
        self.register_buffer("scale_J", torch.ones(len(labels)))

    def observe(self, dataset: Dataset) -> None:
        """Take mean and deviation of the labels over training events."""
        places = [dataset.manifest.labels.index(label) for label in self.labels]
        found = label_sums(dataset, {"": np.zeros(len(dataset.catalog.popularity), np.int64)}, 1)[""]
        counts_J = found.counts_KGL[0, 0, places].clip(1)
        mean_J = found.sums_KGL[0, 0, places] / counts_J
        variance_J = found.squares_KGL[0, 0, places] / counts_J - mean_J**2
        self.mean_J.copy_(torch.from_numpy(mean_J))
        self.scale_J.copy_(torch.from_numpy(np.sqrt(variance_J.clip(1e-12))))

    def forward(self, history: History, rows_N: Tensor, anchors_N: Tensor) -> Tensor:
        """Return [N, F] at positions of users; an anchor of -1 has seen nothing."""
        kinds_K = torch.arange(self.num_events, device=rows_N.device)
        counts_BLK = (history.events_BL.unsqueeze(-1) == kinds_K) & history.mask_BL.unsqueeze(-1)
        columns = [torch.log1p(_upto(counts_BLK, rows_N, anchors_N)) / _FEW - 0.5]
        for at, label in enumerate(self.labels):
            values_BL = history.labels[label] if label in history.labels else torch.nan * history.mask_BL
            known_BL = values_BL.isfinite() & history.mask_BL
            count_N1 = _upto(known_BL.unsqueeze(-1), rows_N, anchors_N)
            away_BL = torch.where(known_BL, (values_BL - self.mean_J[at]) / self.scale_J[at], 0.0)
            sum_N1 = _upto(away_BL.unsqueeze(-1), rows_N, anchors_N)
            columns += [sum_N1 / (count_N1 + _PRIOR), torch.log1p(count_N1) / _FEW - 0.5]
        return torch.cat(columns, dim=-1)


def _upto(values_BLF: Tensor, rows_N: Tensor, anchors_N: Tensor) -> Tensor:
    """Return the sums of values up to and with the anchors, f32 [N, F]."""
    sums_BLF = F.pad(values_BLF.float().cumsum(1), (0, 0, 1, 0))
    return sums_BLF[rows_N, anchors_N + 1]
