"""The items that an answer may hold, where that is not the whole catalogue."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from raysys.data.schema import FIRST_ITEM

_NARROW = 8  # with less than one item in so many, the few are picked out; else the others are passed over


class Allowed:
    """Some of the real items; compared by identity, so that questions with the same filter are searched at once."""

    def __init__(self, columns_A: np.ndarray, num_items: int) -> None:
        """Take the allowed items in ascending order, counted from 0."""
        self._columns, self._num_items = columns_A, num_items
        self._parts: tuple[Allowed, Allowed] | None = None

    @staticmethod
    def flagged(flags_I: np.ndarray) -> "Allowed":
        """Allow those that a flag is true of."""
        return Allowed(np.flatnonzero(flags_I), len(flags_I))

    @staticmethod
    def listed(items: np.ndarray, num_items: int, within: "Allowed | None" = None) -> "Allowed":
        """Allow some vocabulary indices of real items, as far as they are allowed already."""
        columns_A = np.unique(items) - FIRST_ITEM
        return Allowed(columns_A if within is None else columns_A[within.flags[columns_A]], num_items)

    @property
    def is_narrow(self) -> bool:
        """Whether so few items are allowed that it is cheaper to pick them out."""
        return len(self._columns) * _NARROW < self._num_items

    @cached_property
    def columns(self) -> Tensor:
        """The allowed items in ascending order, i64, counted from 0."""
        return torch.from_numpy(self._columns)

    @cached_property
    def flags(self) -> np.ndarray:
        """Which items are allowed, bool."""
        flags_I = np.zeros(self._num_items, bool)
        flags_I[self._columns] = True
        return flags_I

    @cached_property
    def forbidden(self) -> Tensor:
        """Which items are not, bool."""
        return torch.from_numpy(~self.flags)

    @cached_property
    def bits(self) -> np.ndarray:
        """The flags as bytes of eight."""
        return np.packbits(self.flags, bitorder="little")

    def cut(self, place: int) -> "tuple[Allowed, Allowed]":
        """Return what is allowed of the items before a place, and of those from it on, which are counted from there.

        The same objects every time: there is one place at which new items begin.
        """
        if self._parts is None:
            at = int(np.searchsorted(self._columns, place))
            rest = Allowed(self._columns[at:] - place, self._num_items - place)
            self._parts = Allowed(self._columns[:at], place), rest
        return self._parts

    def holds(self, items: np.ndarray) -> np.ndarray:
        """Tell of vocabulary indices of real items which are allowed."""
        held: np.ndarray = self.flags[items - FIRST_ITEM]
        return held
