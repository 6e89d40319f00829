"""From users' states, which hold names, to the arrays of indices that a run's model reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raysys.data.columns import Values
from raysys.data.reader import UserRows
from raysys.data.schema import FIRST_ITEM, PAD, UNKNOWN, Split
from raysys.runs import Run
from serving.users.state import TAG, StoredEvent, UserState


class StateEncoder:
    """Encodes by the vocabularies of one run; what they do not know is unknown to the model too."""

    def __init__(self, run: Run) -> None:
        manifest = run.manifest
        self._lookup = run.vocabulary.lookup
        self._tag = manifest.fingerprint[:TAG]
        self._has_times = manifest.time_range is not None
        self._events = {name: index for index, name in enumerate(manifest.event_names)}
        self._labels, self._numbers, self._users = manifest.labels, manifest.numbers, manifest.user_columns
        self._context = _indices(run.values["context"])
        self._features = _indices(run.values["users"])
        self.event_names, self.history = manifest.event_names, manifest.history
        self.is_history = np.array([name in manifest.history for name in manifest.event_names] or [True])

    def rows(self, states: Sequence[UserState]) -> UserRows:
        """Return the events of users [B]; those of a kind that the run does not know are left out."""
        known = [[one for one in state.events if one.event in self._events] for state in states]
        flat = [event for events in known for event in events]
        return UserRows(
            offsets=np.cumsum([0, *map(len, known)]),
            items=self._lookup([event.item_id for event in flat]),
            events=np.array([self._events[event.event] for event in flat], np.int8),
            times=np.array([event.time if self._has_times else 0 for event in flat], np.int64),
            marks=np.full(len(flat), Split.TRAIN, np.int8),
            labels={name: numbers_of([event.labels for event in flat], name) for name in self._labels},
            users=np.array([self._row(state) for state in states], np.int64),
            context=self.context([event.context for event in flat]),
            features=self._of_users(states),
        )

    def context(self, given: Sequence[Mapping[str, Any] | None]) -> Values:
        """Return the context columns of some events or questions."""
        numbers = {name: numbers_of(given, name) for name in self._numbers}
        return Values(numbers, {name: codes_of(given, name, values) for name, values in self._context.items()})

    def _of_users(self, states: Sequence[UserState]) -> Values:
        given = [None if state.profile is None else state.profile.features for state in states]
        numbers = {name: numbers_of(given, name) for name in self._users.numbers}
        categories = {
            name: lists_of(given, name, self._features[name], self._users.lists[name])
            if name in self._users.lists
            else codes_of(given, name, self._features[name])
            for name in self._users.categories
        }
        return Values(numbers, categories)

    def _row(self, state: UserState) -> int:
        profile = state.profile
        return profile.row if profile is not None and profile.tag == self._tag else -1


def with_history(state: UserState, history: Sequence[str], event: str) -> UserState:
    """Return a state with the items of a history behind it, oldest first; those that it has already are passed over.

    Nobody knows when they happened: after the newest event there is.
    """
    known = {one.item_id for one in state.events}
    last = state.events[-1].time if state.events else 0
    further = [StoredEvent(item_id, event, last) for item_id in history if item_id not in known]
    return UserState((*state.events, *further), state.profile)


def _indices(values: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    return {name: {value: place + FIRST_ITEM for place, value in enumerate(own)} for name, own in values.items()}


def numbers_of(given: Sequence[Mapping[str, Any] | None], name: str) -> np.ndarray:
    """Return a number of each row, f32 [N], NaN where it is not known."""
    found = (one.get(name) if one else None for one in given)
    return np.array([value if isinstance(value, int | float) else np.nan for value in found], np.float32)


def codes_of(given: Sequence[Mapping[str, Any] | None], name: str, index: Mapping[str, int]) -> np.ndarray:
    """Return the index of a category's value in each row, i32 [N], UNKNOWN where there is none."""
    return np.array([index.get(one.get(name, ""), UNKNOWN) if one else UNKNOWN for one in given], np.int32)


def lists_of(given: Sequence[Mapping[str, Any] | None], name: str, index: Mapping[str, int], most: int) -> np.ndarray:
    """Return the indices of a category's values in each row, i32 [N, most], PAD behind them."""
    found = np.full((len(given), most), PAD, np.int32)
    for row, one in enumerate(given):
        codes = [index[value] for value in (one or {}).get(name) or () if value in index][:most]
        found[row, : max(len(codes), 1)] = codes or [UNKNOWN]
    return found
