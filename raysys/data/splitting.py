"""Marks every event as train, valid or test. Marks never fall along a user's line: the past is never held out later."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from raysys.component import FrozenConfig
from raysys.data.schema import Split


class Splitting(ABC):
    """A rule that marks the events of many users at once."""

    Config: ClassVar[type[FrozenConfig]]
    needs_time: ClassVar[bool]

    def __init__(self, config: FrozenConfig) -> None:
        self.config = config

    @abstractmethod
    def mark(self, offsets: np.ndarray, times: np.ndarray, is_history: np.ndarray) -> np.ndarray:
        """Return i8 marks [E] for events of users in time order; offsets [U + 1], times in ms [E]."""


class LeaveOneOut(Splitting):
    """Each user's last history event is the test target, the one before it the validation target."""

    class Config(FrozenConfig):
        """The protocol of most published sequence recommenders."""

        kind: Literal["leave_one_out"] = "leave_one_out"
        min_events: int = Field(3, ge=1)
        """Users with fewer history events are training only."""

    config: Config
    needs_time = False

    def mark(self, offsets: np.ndarray, times: np.ndarray, is_history: np.ndarray) -> np.ndarray:
        """Mark by the number of history events from here to the end of the user."""
        running = np.concatenate([[0], np.cumsum(is_history)])
        totals = running[offsets[1:]] - running[offsets[:-1]]
        user = np.repeat(np.arange(len(totals)), np.diff(offsets))
        left = running[offsets[1:]][user] - running[:-1]  # this event included
        after_last = (left <= 1) & ((left == 1) & is_history | (left == 0))
        before_last = (left <= 2) & ((left == 2) & is_history | (left < 2))
        marks = np.where(after_last, Split.TEST, np.where(before_last, Split.VALID, Split.TRAIN))
        return np.where(totals[user] >= self.config.min_events, marks, Split.TRAIN).astype(np.int8)


class GlobalTime(Splitting):
    """One moment for all users: what happened from `valid_from` on is validation, from `test_from` on test."""

    class Config(FrozenConfig):
        """Dates or times, UTC where they name no zone."""

        kind: Literal["time"] = "time"
        valid_from: datetime
        test_from: datetime

        @model_validator(mode="after")
        def _ordered(self) -> "GlobalTime.Config":
            if _milliseconds(self.valid_from) >= _milliseconds(self.test_from):
                raise ValueError(f"valid_from ({self.valid_from}) must be before test_from ({self.test_from})")
            return self

    config: Config
    needs_time = True

    def mark(self, offsets: np.ndarray, times: np.ndarray, is_history: np.ndarray) -> np.ndarray:
        """Mark by time alone."""
        valid, test = _milliseconds(self.config.valid_from), _milliseconds(self.config.test_from)
        return np.where(times >= test, Split.TEST, np.where(times >= valid, Split.VALID, Split.TRAIN)).astype(np.int8)


def _milliseconds(moment: datetime) -> int:
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


SPLITS: dict[str, type[Splitting]] = {"leave_one_out": LeaveOneOut, "time": GlobalTime}
"""Kind -> rule. To add one: write a class like those above and add its line."""
