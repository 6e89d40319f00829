import numpy as np
import pytest
import torch

from raysys.tasks.downsampling import undo_downsampling


def test_it_is_the_rate_before_negatives_were_left_out():
    generator = np.random.default_rng(0)
    positive = generator.random(200_000) < 0.02
    kept = positive | (generator.random(200_000) < 0.1)
    learnt = torch.tensor(positive[kept].mean())
    assert undo_downsampling(learnt, 0.1).item() == pytest.approx(positive.mean(), rel=0.02)


def test_by_hand():
    values = torch.tensor([0.0, 0.5, 1.0])
    assert undo_downsampling(values, 0.25).tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert undo_downsampling(values, 1.0).tolist() == values.tolist()
    for kept in (0.0, 1.5):
        with pytest.raises(ValueError, match="kept"):
            undo_downsampling(values, kept)
