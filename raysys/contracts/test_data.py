"""Every format and split: missing input is refused plainly; marks never fall along a user's line."""

import itertools

import numpy as np
import pytest

from raysys.contracts.test_components import REQUIRED
from raysys.data.formats import FORMATS
from raysys.data.splitting import SPLITS
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
    part = SPLITS[kind]
    needed = {name: REQUIRED[name] for name, field in part.Config.model_fields.items() if field.is_required()}
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 12, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    day = 86_400_000
    times = np.concatenate([np.sort(generator.integers(20_400 * day, 20_550 * day, size)) for size in lengths])
    marks = part(part.Config(**needed)).mark(offsets, times, generator.random(offsets[-1]) < 0.7)
    assert marks.dtype == np.int8
    assert set(marks) <= {0, 1, 2}
    for begin, end in itertools.pairwise(offsets):
        assert (np.diff(marks[begin:end]) >= 0).all()
