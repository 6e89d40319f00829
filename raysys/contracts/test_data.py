"""Every format and split: missing input is refused plainly; marks never fall along a user's line."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from raysys.contracts.test_components import REQUIRED
from raysys.data.formats import FORMATS
from raysys.data.lanes import LaneEvents
from raysys.data.schema import Split
from raysys.data.splitting import SPLITS, Splitting
from raysys.errors import UserError


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_source_is_refused(name, tmp_path):
    fields = FORMATS[name].Config.model_fields
    if not fields["path"].is_required():
        pytest.skip("a format without a file")
    form = FORMATS[name](FORMATS[name].Config(path=str(tmp_path / "nothing-here")))
    with pytest.raises(UserError, match="nothing-here"):
        form.pieces()


@pytest.mark.parametrize("kind", SPLITS)
def test_marks_never_fall(kind):
    lane = _lane()
    split = _resolved(kind, lane)
    assert split.resolve({}) == split.config, "what is resolved stays, whatever later days bring"
    left_out = split.drop(lane)
    if left_out is not None:
        assert left_out.dtype == bool
        assert left_out.shape == (len(lane),)
        lane = lane.keep(~left_out)
    marks = split.mark(lane)
    assert marks.dtype == np.int8
    assert set(marks.tolist()) <= {Split.GIVEN, Split.TRAIN, Split.VALID, Split.TEST}
    assert {Split.TRAIN, Split.VALID, Split.TEST} <= set(marks.tolist()), "500 users are enough for all three"
    for begin, end in itertools.pairwise(lane.offsets):
        assert (np.diff(marks[begin:end]) >= 0).all()


@pytest.mark.parametrize("kind", SPLITS)
def test_a_user_is_marked_alike_in_any_lane(kind):
    lane = _lane()
    split = _resolved(kind, lane)
    chosen = lane.owner % 3 == 1
    assert split.mark(lane)[chosen].tolist() == split.mark(lane.keep(chosen)).tolist()


def _resolved(kind: str, lane: LaneEvents) -> Splitting:
    part = SPLITS[kind]
    needed = {name: REQUIRED[name] for name, field in part.Config.model_fields.items() if field.is_required()}
    hours, counts = np.unique(lane.times // 3_600_000, return_counts=True)
    return part(part(part.Config(**needed)).resolve(dict(zip(hours.tolist(), counts.tolist(), strict=True))))


def _lane() -> LaneEvents:
    """500 users with up to 12 events within 150 days, 7 of 10 of them history events."""
    generator, day = np.random.default_rng(0), 86_400_000
    lengths = generator.integers(1, 13, 500)
    times = [np.sort(generator.integers(20_400 * day, 20_550 * day, size)) for size in lengths]
    size = int(lengths.sum())
    return LaneEvents(
        users=pa.array([f"u{user:03}" for user in range(500)]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_ids=pa.array([f"i{item:02}" for item in range(50)]),
        items=generator.integers(0, 50, size).astype(np.int32),
        event_names=("buy", "show"),
        events=np.zeros(size, np.int8),
        times=np.concatenate(times),
        is_history=generator.random(size) < 0.7,
        columns={},
    )
