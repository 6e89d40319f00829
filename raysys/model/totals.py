"""What a user's tokens before a target add up to: the share of each kind of event, and how their labels lie.

A backbone can learn to count, but has to; a rate over forty events is worth more to a probability than any one of them.
Numbers of events are left out: they grow from the first day of a log to the last, so that what is learned of them in
training does not hold later.

Legend of shapes: N pairs, B users, L positions, K kinds of events, J labels, F columns: K + J.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysys.data.batches import History
from raysys.data.dataset import Dataset
from raysys.data.label_sums import label_sums

_PRIOR = 5.0  # events: weight of the mean of all users beside those of one


class HistoryTotals(nn.Module):
    """Running totals of tokens."""

    mean_J: Tensor
    scale_J: Tensor

    def __init__(self, num_events: int, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.num_events, self.labels = num_events, labels
        self.width = num_events + len(labels)
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
        counts_NK = _upto(counts_BLK, rows_N, anchors_N)
        columns = [counts_NK / (counts_NK.sum(-1, keepdim=True) + 1)]
        for at, label in enumerate(self.labels):
            values_BL = history.labels[label] if label in history.labels else torch.nan * history.mask_BL
            known_BL = values_BL.isfinite() & history.mask_BL
            count_N1 = _upto(known_BL.unsqueeze(-1), rows_N, anchors_N)
            away_BL = torch.where(known_BL, (values_BL - self.mean_J[at]) / self.scale_J[at], 0.0)
            columns.append(_upto(away_BL.unsqueeze(-1), rows_N, anchors_N) / (count_N1 + _PRIOR))
        return torch.cat(columns, dim=-1)


def _upto(values_BLF: Tensor, rows_N: Tensor, anchors_N: Tensor) -> Tensor:
    """Return the sums of values up to and with the anchors, f32 [N, F]."""
    sums_BLF = F.pad(values_BLF.float().cumsum(1), (0, 0, 1, 0))
    return sums_BLF[rows_N, anchors_N + 1]
