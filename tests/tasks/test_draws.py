import numpy as np
import torch

from raysys.tasks.draws import draw_below, draw_bits, draw_uniform, step_key

ROWS, PLACES = torch.arange(400).repeat_interleave(5), torch.arange(5).repeat(400)


def test_a_draw_depends_on_its_place_alone():
    whole = draw_bits(7, ROWS, PLACES, 3)
    some = torch.tensor([1999, 3, 500])
    assert torch.equal(whole[some], draw_bits(7, ROWS[some], PLACES[some], 3))
    assert torch.equal(whole[:, :2], draw_bits(7, ROWS, PLACES, 2)), "more draws leave the first as they are"


def test_no_two_draws_are_alike():
    drawn = torch.cat([draw_bits(key, ROWS, PLACES, 50, stream) for key in (1, 2) for stream in (0, 1)])
    assert len(drawn.unique()) == drawn.numel()
    assert (drawn >= 0).all()


def test_uniform_draws_are_uniform():
    drawn = draw_uniform(step_key(0, 3), ROWS, PLACES, 50).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    expected = drawn.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8, "chi-square of 19 degrees at p = .001"
    neighbours = np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]
    assert abs(neighbours) < 0.08


def test_integers_reach_every_value_below_the_limit():
    drawn = draw_below(11, 5, ROWS, PLACES, 20)
    assert drawn.unique().tolist() == list(range(11))


def test_steps_have_keys_of_their_own():
    keys = {step_key(seed, step) for seed in range(3) for step in range(1000)}
    assert len(keys) == 3000
    assert all(0 <= key < 1 << 63 for key in keys)
    assert step_key(2, 5) == step_key(2, 5)
