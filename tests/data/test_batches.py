"""Batches and queries against a slow reference that goes through every user's line, event by event."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.data.batches import make_batch, make_queries
from raysys.data.dataset import Dataset, Manifest
from raysys.data.files import write_arrow
from raysys.data.reader import ShardReader, UserRows, history_rows
from raysys.data.schema import PAD, UNKNOWN, Fields, Split, sequences_schema

IS_HISTORY = np.array([True, False, True])  # by event
SPLITS = (Split.TRAIN, Split.VALID, Split.TEST)


@dataclass(frozen=True)
class Event:
    """One event of a user; its time is its place in the user's line, so that it can be recognised."""

    item: int
    event: int
    time: int
    mark: int
    rating: float

    def is_token(self, split: Split) -> bool:
        return self.mark <= split and bool(IS_HISTORY[self.event]) and self.item != UNKNOWN


Line = list[Event]

plain_events = st.tuples(st.integers(UNKNOWN, 6), st.integers(0, 2), st.sampled_from([1.0, 5.0, np.nan]))


@st.composite
def lines(draw, most: int = 12) -> Line:
    """A user's line: any items and events, marks that never fall."""
    plain = draw(st.lists(plain_events, max_size=most))
    marks = sorted(draw(st.lists(st.integers(0, 2), min_size=len(plain), max_size=len(plain))))
    return [Event(*pair[:2], time, mark, pair[2]) for time, (pair, mark) in enumerate(zip(plain, marks, strict=True))]


def to_rows(users: list[Line]) -> UserRows:
    events = [event for line in users for event in line]
    return UserRows(
        offsets=np.cumsum([0, *map(len, users)]).astype(np.int64),
        items=np.array([e.item for e in events], np.int32),
        events=np.array([e.event for e in events], np.int8),
        times=np.array([e.time for e in events], np.int64),
        marks=np.array([e.mark for e in events], np.int8),
        labels={"rating": np.array([e.rating for e in events], np.float32)},
        users=np.arange(len(users)) + 100,
    )


@dataclass(frozen=True)
class View:
    """What the reference says a batch should show of one user."""

    tokens: Line
    targets: list[tuple[Event, int]]  # with the anchor, counted within tokens


def reference_view(line: Line, split: Split, max_length: int, window: float | None) -> View:
    tokens = [event for event in line if event.is_token(split)]
    targets = [event for event in line if event.mark == split]
    anchors = [sum(token.time < target.time for token in tokens) - 1 for target in targets]
    last = max(anchors, default=-1)
    first = max(last - max_length + 1, 0)
    if window is not None:
        first = int(window * (first + 1))
        last = min(last, first + max_length - 1)
    seen = [
        (target, anchor - first)
        for target, anchor in zip(targets, anchors, strict=True)
        if first <= anchor <= last or (anchor == -1 and first == 0)
    ]
    return View(tokens[first : last + 1], seen)


def shown_tokens(history, row: int) -> list[tuple[int, int, int]]:
    mask = history.mask_BL[row]
    length = int(mask.sum())
    assert mask[:length].all(), "padding is at the end"
    assert (history.items_BL[row, length:] == PAD).all()
    columns = (history.items_BL, history.events_BL, history.times_BL)
    return list(zip(*(column[row, :length].tolist() for column in columns), strict=True))


def as_shown(tokens: Line) -> list[tuple[int, int, int]]:
    return [(token.item, token.event, token.time) for token in tokens]


def assert_like_reference(users: list[Line], split: Split, max_length: int, window: np.ndarray | None) -> None:
    batch = make_batch(to_rows(users), split, IS_HISTORY, max_length, window)
    targets = batch.targets
    assert batch.history.users_B.tolist() == [100 + row for row in range(len(users))]
    assert batch.history.items_BL.shape[1] <= max(max_length, 1)
    for row, line in enumerate(users):
        view = reference_view(line, split, max_length, None if window is None else window[row])
        assert shown_tokens(batch.history, row) == as_shown(view.tokens)
        mask = targets.mask_BC[row]
        count = int(mask.sum())
        assert mask[:count].all()
        assert (targets.items_BC[row, count:] == PAD).all()
        assert (targets.anchor_BC[row, count:] == -1).all()
        assert targets.labels["rating"][row, count:].isnan().all()
        columns = (targets.items_BC, targets.events_BC, targets.times_BC, targets.anchor_BC)
        found = list(zip(*(column[row, :count].tolist() for column in columns), strict=True))
        assert found == [(e.item, e.event, e.time, anchor) for e, anchor in view.targets]
        ratings = targets.labels["rating"][row, :count].numpy()
        np.testing.assert_array_equal(ratings, np.array([e.rating for e, _ in view.targets], np.float32))


users_of_lines = st.lists(lines(), min_size=1, max_size=4)


@settings(max_examples=60)
@given(users_of_lines, st.sampled_from(SPLITS), st.integers(1, 9))
def test_batches_are_as_the_reference_says(users, split, max_length):
    assert_like_reference(users, split, max_length, None)


@settings(max_examples=60)
@given(
    users_of_lines, st.sampled_from(SPLITS), st.integers(1, 9), st.lists(st.floats(0, 0.999), min_size=4, max_size=4)
)
def test_windows_are_as_the_reference_says(users, split, max_length, window):
    assert_like_reference(users, split, max_length, np.array(window[: len(users)]))


@settings(max_examples=40)
@given(users_of_lines, st.sampled_from(SPLITS), st.integers(1, 5), st.none() | st.floats(0, 0.999))
def test_no_state_knows_its_target_or_anything_later(users, split, max_length, share):
    window = None if share is None else np.full(len(users), share)
    batch = make_batch(to_rows(users), split, IS_HISTORY, max_length, window)
    history, targets = batch.history, batch.targets
    for row, column in targets.mask_BC.nonzero().tolist():
        anchor = int(targets.anchor_BC[row, column])
        known = history.times_BL[row, : anchor + 1]
        assert history.mask_BL[row, : anchor + 1].all()
        assert (known < targets.times_BC[row, column]).all(), "the state of a target may know only what was before it"
        after = history.times_BL[row, anchor + 1 :][history.mask_BL[row, anchor + 1 :]]
        assert (after >= targets.times_BC[row, column]).all(), "the anchor is the newest token before the target"


@settings(max_examples=30)
@given(users_of_lines, st.sampled_from(SPLITS), st.integers(1, 5))
def test_what_comes_later_changes_nothing_before_it(users, split, max_length):
    whole = make_batch(to_rows(users), split, IS_HISTORY, max_length)
    future = [[replace(e, item=5, event=0) if e.mark > split else e for e in line] for line in users]
    other = make_batch(to_rows(future), split, IS_HISTORY, max_length)
    assert torch.equal(whole.history.items_BL, other.history.items_BL)
    assert torch.equal(whole.targets.anchor_BC, other.targets.anchor_BC)
    assert torch.equal(whole.targets.items_BC, other.targets.items_BC)


@given(st.integers(2, 12), st.integers(1, 12))
def test_over_all_windows_every_target_is_seen(num_events, max_length):
    line = [Event(2 + time % 4, 0, time, 0, 1.0) for time in range(num_events)]
    places = max(num_events - 1 - max_length, 0) + 1
    seen: set[int] = set()
    for place in range(places):
        batch = make_batch(to_rows([line]), Split.TRAIN, IS_HISTORY, max_length, np.array([(place + 0.5) / places]))
        assert batch.history.mask_BL.sum() == min(max_length, num_events - 1)
        seen |= set(batch.targets.times_BC[batch.targets.mask_BC].tolist())
    assert seen == set(range(num_events))


def test_a_user_whose_first_event_is_a_target_is_asked_from_the_start_state():
    batch = make_batch(to_rows([[Event(3, 0, 0, 0, 1.0)]]), Split.TRAIN, IS_HISTORY, 5)
    assert batch.targets.anchor_BC.tolist() == [[-1]]
    assert not batch.history.mask_BL.any()


@pytest.mark.parametrize("users", [[], [[]], [[], []], [[Event(3, 0, 0, 2, 1.0)]]])
def test_users_without_targets_or_no_users_at_all_make_an_empty_batch(users):
    batch = make_batch(to_rows(users), Split.TRAIN, IS_HISTORY, 5)
    assert batch.history.items_BL.shape == (len(users), 1)
    assert batch.targets.mask_BC.shape == (len(users), 0)
    assert batch.targets.labels["rating"].shape == (len(users), 0)
    queries = make_queries(to_rows(users), Split.TRAIN, IS_HISTORY, 5)
    assert queries.anchor_B.tolist() == [-1] * len(users)
    assert len(queries.seen_items_N) == len(queries.relevant_items_N) == 0


# Queries


@settings(max_examples=60)
@given(users_of_lines, st.sampled_from([*SPLITS, Split.NONE]), st.integers(1, 9))
def test_queries_are_as_the_reference_says(users, split, max_length):
    queries = make_queries(to_rows(users), split, IS_HISTORY, max_length)
    assert queries.history.users_B.tolist() == [100 + row for row in range(len(users))]
    for row, line in enumerate(users):
        past = [event for event in line if event.mark < split and IS_HISTORY[event.event]]
        tokens = [event for event in past if event.item != UNKNOWN][-max_length:]
        assert shown_tokens(queries.history, row) == as_shown(tokens)
        assert queries.anchor_B[row] == len(tokens) - 1
        seen = queries.seen_items_N[queries.seen_rows_N == row].tolist()
        assert seen == [event.item for event in past]
        relevant = queries.relevant_items_N[queries.relevant_rows_N == row].tolist()
        assert relevant == [e.item for e in line if e.mark == split and IS_HISTORY[e.event]]


def test_a_request_is_asked_like_a_users_row():
    histories = [[2, 3, UNKNOWN, 4], [], [5] * 9]
    rows = history_rows([np.array(items, np.int32) for items in histories])
    queries = make_queries(rows, Split.NONE, np.array([True]), 4)
    assert [shown_tokens(queries.history, row) for row in range(3)] == [
        [(2, 0, 0), (3, 0, 0), (4, 0, 0)],
        [],
        [(5, 0, 0)] * 4,
    ]
    assert queries.anchor_B.tolist() == [2, -1, 3]
    assert queries.history.users_B.tolist() == [-1, -1, -1]
    assert queries.seen_items_N.tolist() == [2, 3, UNKNOWN, 4] + [5] * 9
    named = history_rows([np.array([2, 3], np.int32)], [np.array([1, 2], np.int8)])
    shown = make_queries(named, Split.NONE, IS_HISTORY, 4)
    assert shown_tokens(shown.history, 0) == [(3, 2, 0)], "an event that is no history is no token"
    assert make_queries(history_rows([]), Split.NONE, IS_HISTORY, 4).anchor_B.tolist() == []


def test_carriers_move_as_a_whole():
    rows = to_rows([[Event(3, 0, 0, 0, 1.0), Event(4, 0, 1, 0, 1.0)]])
    batch = make_batch(rows, Split.TRAIN, IS_HISTORY, 5)
    queries = make_queries(rows, Split.VALID, IS_HISTORY, 5)
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    tensors = [moved.history.items_BL, moved.targets.anchor_BC, moved.targets.labels["rating"], moved.history.users_B]
    tensors += [queries.to(torch.device("meta")).relevant_items_N]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


# Shards


@pytest.fixture
def shards(tmp_path):
    """Three shards of users' lines, written as an ingestion would, and the lines themselves."""
    generator = np.random.default_rng(0)
    users = []
    for _ in range(23):
        marks = np.sort(generator.integers(0, 3, generator.integers(1, 9)))
        users.append(
            [
                Event(int(generator.integers(1, 9)), int(generator.integers(3)), time, int(mark), rating)
                for time, mark in enumerate(marks)
                for rating in [float(generator.choice([np.nan, 2.0, 4.0]))]
            ]
        )
    names = []
    for shard, (begin, end) in enumerate([(0, 10), (10, 11), (11, 23)]):
        part = users[begin:end]
        rows = {
            "user_id": [f"user-{at}" for at in range(begin, end)],
            "items": [[e.item for e in line] for line in part],
            "events": [[e.event for e in line] for line in part],
            "times": [[e.time for e in line] for line in part],
            "marks": [[e.mark for e in line] for line in part],
            "label.rating": [[None if np.isnan(e.rating) else e.rating for e in line] for line in part],
        }
        names.append(f"{shard:05d}.arrow")
        write_arrow(
            pa.table(rows, schema=sequences_schema(Fields(labels=("rating",)))), tmp_path / "shards" / names[-1]
        )
    manifest = Manifest.model_construct(
        event_names=("buy", "view", "click"), history=("buy", "click"), labels=("rating",), shards=tuple(names)
    )
    return Dataset(tmp_path, manifest), users


def test_a_reader_gathers_rows_of_any_shards_in_the_order_asked(shards):
    dataset, users = shards
    reader = ShardReader(dataset)
    assert reader.is_history.tolist() == [True, False, True]
    assert reader.shard_of_row.tolist() == [0] * 10 + [1] + [2] * 12
    generator = np.random.default_rng(1)
    for wanted in ([0], [22, 0, 10, 10, 9, 11], list(range(23)), generator.integers(0, 23, 40).tolist(), []):
        rows = np.array(wanted, np.int64)
        found, expected = reader.rows(rows), to_rows([users[at] for at in wanted])
        for name in ("offsets", "items", "events", "times", "marks"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_array_equal(found.labels["rating"], expected.labels["rating"])
        assert found.users.tolist() == wanted
        assert reader.user_ids(rows).to_pylist() == [f"user-{at}" for at in wanted]


def test_batches_of_mapped_shards_are_as_the_reference_says(shards):
    dataset, users = shards
    reader = ShardReader(dataset)
    batch = make_batch(reader.rows(np.arange(23)), Split.VALID, reader.is_history, 3)
    for row, line in enumerate(users):
        view = reference_view(line, Split.VALID, 3, None)
        assert shown_tokens(batch.history, row) == as_shown(view.tokens)
        assert batch.targets.items_BC[row][batch.targets.mask_BC[row]].tolist() == [e.item for e, _ in view.targets]


@given(st.lists(st.booleans(), min_size=1, max_size=14), st.integers(0, 5), st.integers(1, 6))
def test_windows_back_give_every_target_exactly_once(kinds, num_before, max_length):
    """Evaluation scores all events of a long test period, each with at most `max_length` tokens before it."""
    past = [Event(2, 0, time, 0, 1.0) for time in range(num_before)]
    line = past + [Event(3, 0 if kind else 1, num_before + at, 2, 1.0) for at, kind in enumerate(kinds)]
    seen: list[int] = []
    for back in range(len(line) + 1):
        batch = make_batch(to_rows([line]), Split.TEST, IS_HISTORY, max_length, windows_back=back)
        targets = batch.targets
        for time, anchor in zip(targets.times_BC[targets.mask_BC], targets.anchor_BC[targets.mask_BC], strict=True):
            tokens_before = [event.time for event in line if event.event == 0 and event.time < time]
            assert anchor == -1 or batch.history.times_BL[0, anchor] == tokens_before[-1]
            assert (anchor == -1) <= (not tokens_before)
            seen.append(int(time))
    assert sorted(seen) == [event.time for event in line if event.mark == 2]
