"""Marks every event as train, valid or test. Marks never fall along a user's line: the past is never held out later."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raysys.component import FrozenConfig
from raysys.data.hashing import hash_ids, share_of
from raysys.data.lanes import LaneEvents
from raysys.data.schema import Split
from raysys.data.times import milliseconds
from raysys.errors import UserError

_OWN_HASH: Final = 0x5371_17  # lanes and samples hash the same ids: held-out parts must not follow those


class Splitting(ABC):
    """A rule that marks the events of many users at once. Each kind says whether it needs a log with times."""

    Config: ClassVar[type[FrozenConfig]]
    needs_time: ClassVar[bool]

    def __init__(self, config: FrozenConfig) -> None:
        self.config = config

    @abstractmethod
    def mark(self, lane: LaneEvents) -> np.ndarray:
        """Return a Split mark per event, i8 [E]."""

    def drop(self, lane: LaneEvents) -> np.ndarray | None:
        """Return true [E] on events that the split leaves out of the dataset; None where it leaves out nothing."""
        return None

    @property
    def periods(self) -> tuple[int, int] | None:
        """Begin of validation and of test in ms, where these are moments for all users."""
        return None

    def resolve(self, histogram: Mapping[int, int]) -> FrozenConfig:
        """Return the config with everything in it that depends on the log, so that later days change nothing.

        `histogram` is the number of events in each hour of the whole log: hours since 1970-01-01 UTC -> count.

        Raises:
            UserError: the log does not allow this split.
        """
        return self.config


class _Shares(FrozenConfig):
    valid_share: float = Field(0.1, gt=0, lt=1)
    """Share that validates."""
    test_share: float = Field(0.1, gt=0, lt=1)
    """Share that tests."""

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.valid_share + self.test_share >= 1:
            raise ValueError(f"valid_share + test_share is {self.valid_share + self.test_share:g}; it must be below 1")
        return self


class LeaveOneOut(Splitting):
    """Each user's last history event is the test target, the one before it the validation target."""

    class Config(FrozenConfig):
        """The protocol of most published sequence recommenders."""

        kind: Literal["leave_one_out"] = "leave_one_out"
        min_events: int = Field(3, ge=1)
        """Users with fewer history events are training only."""

    config: Config
    needs_time = False

    def mark(self, lane: LaneEvents) -> np.ndarray:
        """Mark the last two history events of a user; other events follow the history event before them."""
        one = (_history_events(lane) >= self.config.min_events).astype(np.int64)
        return _mark_last(lane, one, one)


class Ratio(Splitting):
    """The last shares of each user's history events are validation and test."""

    class Config(_Shares):
        """Like leave_one_out, with more to measure on for users with long histories."""

        kind: Literal["ratio"] = "ratio"
        min_events: int = Field(3, ge=3)
        """Users with fewer history events are training only; all others have an event of each part."""

    config: Config
    needs_time = False

    def mark(self, lane: LaneEvents) -> np.ndarray:
        """Round the parts of a user to whole history events; other events follow the history event before them."""
        config, length = self.config, _history_events(lane)
        test = np.clip(np.rint(length * config.test_share), 1, length - 2)
        valid = np.clip(np.rint(length * config.valid_share), 1, length - 1 - test)
        enough = length >= config.min_events
        return _mark_last(lane, np.where(enough, valid, 0), np.where(enough, test, 0))


class _Periods(_Shares):
    valid_from: datetime | None = None
    """Date or time from which events validate, UTC where it names no zone; by default the shares decide."""
    test_from: datetime | None = None
    """Date or time from which events test."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.valid_from is None) != (self.test_from is None):
            missing = "valid_from" if self.valid_from is None else "test_from"
            raise ValueError(f"{missing} is missing; give valid_from and test_from, or neither and shares")
        if self.valid_from and self.test_from and milliseconds(self.valid_from) >= milliseconds(self.test_from):
            raise ValueError(f"valid_from ({self.valid_from}) must be before test_from ({self.test_from})")
        return self


class GlobalTime(Splitting):
    """One moment for all users: what happened from `valid_from` on is validation, from `test_from` on test."""

    class Config(_Periods):
        """Dates, or shares of the events: then the nearest whole hours, found once and kept for later days."""

        kind: Literal["time"] = "time"

    config: _Periods
    needs_time = True

    def mark(self, lane: LaneEvents) -> np.ndarray:
        """Mark by time alone."""
        valid, test = self.periods
        return (lane.times >= valid).astype(np.int8) + (lane.times >= test)

    def resolve(self, histogram: Mapping[int, int]) -> FrozenConfig:
        """Return the config with both dates: the begins of the hours that come nearest to the shares.

        Raises:
            UserError: no hours leave events in every period and at least half of the asked share in training.
        """
        if self.config.valid_from is not None:
            return self.config
        hours = np.array(sorted(hour for hour, count in histogram.items() if count), np.int64)
        counts = np.array([histogram[hour] for hour in hours.tolist()], np.float64)
        if len(hours) >= 3:
            from_here_on = counts[::-1].cumsum()[::-1] / counts.sum()
            held_out = self.config.valid_share + self.config.test_share
            test = 2 + int(np.abs(from_here_on[2:] - self.config.test_share).argmin())
            valid = 1 + int(np.abs(from_here_on[1:test] - held_out).argmin())
            if 1 - from_here_on[valid] >= (1 - held_out) / 2:
                return self.config.model_copy(
                    update={"valid_from": _begin(hours[valid]), "test_from": _begin(hours[test])}
                )
        raise UserError(
            f"split: the log's events fall into too few hours ({len(hours)}) for a split by time with valid_share "
            f"{self.config.valid_share:g} and test_share {self.config.test_share:g}; give valid_from and test_from, or "
            "choose kind: leave_one_out or ratio"
        )

    @property
    def periods(self) -> tuple[int, int]:
        """Begin of validation and of test for all users, ms."""
        if self.config.valid_from is None or self.config.test_from is None:
            raise ValueError("the dates of this split are not known yet: mark with the config that resolve returns")
        return milliseconds(self.config.valid_from), milliseconds(self.config.test_from)


class ItemHeldOut(GlobalTime):
    """A split by time for new items: some items, chosen by a hash, have no events before `valid_from`."""

    class Config(_Periods):
        """What training has never seen: its events from `valid_from` on measure how new items fare."""

        kind: Literal["item_held_out"] = "item_held_out"
        share: float = Field(0.1, gt=0, lt=1)
        """Share of the items that training never sees."""
        seed: int = Field(0, ge=0, lt=1 << 32)
        """Other seeds choose other items."""

    config: Config

    def drop(self, lane: LaneEvents) -> np.ndarray | None:
        """Return true [E] on the events of held-out items before `valid_from`."""
        held_out = share_of(hash_ids(lane.item_ids, _OWN_HASH + self.config.seed)) < self.config.share
        return held_out[lane.items] & (lane.times < self.periods[0])


class UserHeldOut(Splitting):
    """A split by users, chosen by a hash: training sees nothing of those held out."""

    class Config(_Shares):
        """How a model fares with users that it has never been trained on."""

        kind: Literal["user_held_out"] = "user_held_out"
        given: float = Field(0.8, gt=0, lt=1)
        """Share of a held-out user's history events, the first, that are given; the rest is to be predicted."""
        seed: int = Field(0, ge=0, lt=1 << 32)
        """Other seeds choose other users."""

    config: Config
    needs_time = False

    def mark(self, lane: LaneEvents) -> np.ndarray:
        """Mark held-out users as given, then valid or test; with fewer than 2 history events all is given."""
        config, length = self.config, _history_events(lane)
        place = share_of(hash_ids(lane.users, _OWN_HASH + config.seed))
        is_test, is_held = place < config.test_share, place < config.test_share + config.valid_share
        given = np.where(length < 2, length, np.clip(np.rint(length * config.given), 1, np.maximum(length - 1, 1)))
        lengths = np.diff(lane.offsets)
        asked = _rank(lane) > np.repeat(given, lengths)
        marks = np.where(asked, np.repeat(np.where(is_test, Split.TEST, Split.VALID), lengths), Split.GIVEN)
        return np.where(np.repeat(is_held, lengths), marks, Split.TRAIN).astype(np.int8)


def _history_events(lane: LaneEvents) -> np.ndarray:
    """Return the number of history events of each user [U]."""
    return np.diff(np.concatenate([[0], np.cumsum(lane.is_history)])[lane.offsets])


def _rank(lane: LaneEvents) -> np.ndarray:
    """Return how many history events of its user each event has seen, itself included [E]."""
    running = np.concatenate([[0], np.cumsum(lane.is_history)])
    return running[1:] - np.repeat(running[lane.offsets[:-1]], np.diff(lane.offsets))


def _mark_last(lane: LaneEvents, num_valid: np.ndarray, num_test: np.ndarray) -> np.ndarray:
    """Mark the last history events of each user [U] as test, those before them as valid."""
    rank, lengths = _rank(lane), np.diff(lane.offsets)
    last_valid = _history_events(lane) - num_test
    is_valid = rank > np.repeat(last_valid - num_valid, lengths)
    return is_valid.astype(np.int8) + (rank > np.repeat(last_valid, lengths))


def _begin(hour: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=int(hour))


SPLITS: dict[str, type[Splitting]] = {
    "time": GlobalTime,
    "leave_one_out": LeaveOneOut,
    "ratio": Ratio,
    "item_held_out": ItemHeldOut,
    "user_held_out": UserHeldOut,
}
"""Kind -> rule. To add one: write a class like those above and add its line."""
