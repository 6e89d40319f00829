"""Random draws as pure functions of (step, user, position): any number of ranks, and a resumed run, draw the same.

A counter goes through the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number
Generators"); there is no generator whose state would have to be kept or shared.
"""

import numpy as np
import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as i64: steps of the counter
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MANTISSA = 24  # bits that a float32 holds exactly


def step_key(seed: int, step: int) -> int:
    """Return the number that names a step of a run: what `Batch.key` holds."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def every_place(users_B: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return (rows, places) to draw at for each of `count` places of each user [B x count]."""
    places_N = torch.arange(count, device=users_B.device).repeat(len(users_B))
    return users_B.repeat_interleave(count), places_N


def draw_bits(key: int, rows_N: Tensor, places_N: Tensor, count: int, stream: int = 0) -> Tensor:
    """Return `count` draws per place, i64 [N, count], uniform over 0 .. 2^63 - 1.

    Args:
        key: of the step.
        rows_N: row of the dataset of each place's user.
        places_N: number of the place within its user.
        count: draws per place.
        stream: tells apart what is drawn for different purposes at the same place.
    """
    name = _mixed(_mixed(torch.tensor(key, device=rows_N.device)) + stream)  # mixed: keys may be neighbours
    base_N = _mixed(_mixed(name + rows_N) + places_N)
    counters = torch.arange(1, count + 1, device=rows_N.device, dtype=torch.int64) * _GAMMA
    return _mixed(base_N.unsqueeze(1) + counters) & 0x7FFFFFFFFFFFFFFF


def draw_uniform(key: int, rows_N: Tensor, places_N: Tensor, count: int, stream: int = 0) -> Tensor:
    """Return `count` numbers in [0, 1) per place, f32 [N, count]."""
    return (draw_bits(key, rows_N, places_N, count, stream) >> (63 - _MANTISSA)).float() * 2.0**-_MANTISSA


def draw_below(limit: int, key: int, rows_N: Tensor, places_N: Tensor, count: int, stream: int = 0) -> Tensor:
    """Return `count` integers in [0, limit) per place, i64 [N, count]; the bias is below limit / 2^63."""
    return draw_bits(key, rows_N, places_N, count, stream) % limit


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical: torch shifts the sign in
