"""Exact partial selection: the K largest scores of each row, block of columns by block, in memory O(rows x block).

On the CPU the order is total: of equal scores the earlier column stands first, whatever the blocks are. Legend: B rows,
W columns of a block, G groups of columns, N candidates.
"""

from collections.abc import Iterable
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_GROUP = 32
_FEW = 1 << 14
_SMALL = 1 << 16  # columns that are copied sooner than looked through in two parts


def top_columns(blocks: Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """Return columns [B, k] i64 and scores [B, k] f32 of the k largest scores of each row, the largest first.

    Blocks are (first column, scores [B, W]) in ascending order and of at least k columns altogether. A score of -inf
    is never chosen: where fewer than k others are, columns are -1 and scores -inf.
    """
    blocks = iter(blocks)
    first, second = next(blocks, None), next(blocks, None)
    if first is not None and second is None and (found := _few(*first, k)) is not None:
        return found
    chosen: _Groups | _Plain | None = None
    for start, scores_BW in chain([one for one in (first, second) if one is not None], blocks):
        if chosen is None:
            kind = _Groups if scores_BW.device.type == "cpu" else _Plain
            chosen = kind(len(scores_BW), k)
        chosen.add(start, scores_BW)
    if chosen is None:
        raise ValueError("there are no columns to choose from")
    return chosen.result()


def _few(start: int, scores_BW: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """Select from a single block of few columns; None where it is large, or where equal scores have to be ordered.

    A request on a small catalogue waits for the number of calls, not for the scores.
    """
    if scores_BW.shape[1] > _FEW or scores_BW.device.type != "cpu" or k >= scores_BW.shape[1]:
        return None
    scores_BK, columns_BK = scores_BW.topk(k + 1, dim=1)
    if (scores_BK[:, 1:] == scores_BK[:, :-1]).any() or (scores_BK == -torch.inf).any():
        return None
    return columns_BK[:, :k] + start, scores_BK[:, :k]


class _Plain:
    """Selection by topk of each block and of what was best before: where topk is fast, on accelerators."""

    def __init__(self, num_rows: int, k: int) -> None:
        self.k = k
        self.columns_BK: Tensor | None = None
        self.scores_BK: Tensor | None = None

    def add(self, start: int, scores_BW: Tensor) -> None:
        scores, columns = scores_BW.topk(min(self.k, scores_BW.shape[1]), dim=1)
        columns = columns + start
        if self.scores_BK is not None and self.columns_BK is not None:
            scores = torch.cat([self.scores_BK, scores], dim=1)
            scores, places = scores.topk(min(self.k, scores.shape[1]), dim=1)
            columns = torch.cat([self.columns_BK, columns], dim=1).gather(1, places)
        self.columns_BK, self.scores_BK = columns, scores

    def result(self) -> tuple[Tensor, Tensor]:
        assert self.columns_BK is not None
        assert self.scores_BK is not None
        return torch.where(self.scores_BK > -torch.inf, self.columns_BK, -1), self.scores_BK


class _Groups:
    """Selection by the maxima of groups of columns: one fast pass over the scores, then few candidates are left.

    The k-th largest maximum is a lower bound of the k-th largest score, because k groups hold k different columns. So
    only groups whose maximum reaches it are looked into, and of a later block only scores above the bound of the
    blocks before: there, equal scores lose to the earlier columns.
    """

    def __init__(self, num_rows: int, k: int) -> None:
        self.num_rows, self.k = num_rows, k
        self.maxima_BK = np.full((num_rows, k), -np.inf, np.float32)
        self.rows_N = np.zeros(0, np.int64)
        self.columns_N = np.zeros(0, np.int64)
        self.scores_N = np.zeros(0, np.float32)

    def add(self, start: int, scores_BW: Tensor) -> None:
        size = max(1, min(_GROUP, scores_BW.shape[1] // (2 * self.k)))  # enough groups that their maxima tell much
        if scores_BW.shape[1] <= _SMALL:
            scores_BW = F.pad(scores_BW, (0, -scores_BW.shape[1] % size), value=-torch.inf)
        whole = scores_BW.shape[1] // size * size
        self._add(start, scores_BW[:, :whole].unflatten(1, (-1, size)))  # type: ignore[no-untyped-call]
        if whole < scores_BW.shape[1]:
            self._add(start + whole, scores_BW[:, whole:].unsqueeze(2))
        if len(self.rows_N) > 8 * self.num_rows * self.k:  # many equal scores: keep memory bounded
            self._prune()

    def _add(self, start: int, scores_BGW: Tensor) -> None:
        size = scores_BGW.shape[2]
        maxima_BG = scores_BGW.amax(dim=2).numpy()
        before_B = self.maxima_BK.min(axis=1)
        together = np.concatenate([self.maxima_BK, maxima_BG], axis=1)
        self.maxima_BK = np.partition(together, together.shape[1] - self.k, axis=1)[:, -self.k :]
        bound_B = self.maxima_BK.min(axis=1)
        groups_N = np.flatnonzero((maxima_BG >= bound_B[:, None]) & (maxima_BG > before_B[:, None]))
        rows_N, group_N = np.divmod(groups_N, maxima_BG.shape[1])
        scores_NW = scores_BGW.numpy()[rows_N, group_N]
        kept = (scores_NW >= bound_B[rows_N, None]) & (scores_NW > before_B[rows_N, None])
        at_N, within_N = np.divmod(np.flatnonzero(kept), size)
        self.rows_N = np.concatenate([self.rows_N, rows_N[at_N]])
        self.columns_N = np.concatenate([self.columns_N, start + group_N[at_N] * size + within_N])
        self.scores_N = np.concatenate([self.scores_N, scores_NW[at_N, within_N]])

    def result(self) -> tuple[Tensor, Tensor]:
        places_N = self._prune()
        columns_BK = np.full((self.num_rows, self.k), -1)
        scores_BK = np.full((self.num_rows, self.k), -np.inf, np.float32)
        columns_BK[self.rows_N, places_N] = self.columns_N
        scores_BK[self.rows_N, places_N] = self.scores_N
        return torch.from_numpy(columns_BK), torch.from_numpy(scores_BK)

    def _prune(self) -> np.ndarray:
        """Keep the k best candidates of each row, in order, and return their places [N].

        Candidates of a row stand in the order of columns, so a stable sort breaks ties by column.
        """
        keys_N = self.rows_N * (1 << 32) - _ordered_bits(self.scores_N)
        order_N = np.argsort(keys_N, kind="stable")
        counts_B = np.bincount(self.rows_N, minlength=self.num_rows)
        places_N = np.arange(len(order_N)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
        kept_N = order_N[places_N < self.k]
        self.rows_N, self.columns_N = self.rows_N[kept_N], self.columns_N[kept_N]
        self.scores_N = self.scores_N[kept_N]
        return places_N[places_N < self.k]


def _ordered_bits(values_N: np.ndarray) -> np.ndarray:
    """Return whole numbers [N] i64 within 32 bits that order as the f32 values do, 0.0 and -0.0 being equal."""
    bits_N = (values_N + np.float32(0)).view(np.int32)
    return np.where(bits_N < 0, bits_N ^ 0x7FFFFFFF, bits_N).astype(np.int64)
