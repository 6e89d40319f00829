"""The largest scores of each row, found block by block, against a stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.evaluation.selection import _Plain, top_columns


def blocks_of(scores: torch.Tensor, size: int):
    for start in range(0, scores.shape[1], size):
        yield start, scores[:, start : start + size].clone()


def by_sorting(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, columns, axis=1)
    return np.where(best > -np.inf, columns, -1), best


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 6),
    columns=st.integers(1, 700),
    share=st.floats(0, 1),
    tied=st.booleans(),
    data=st.data(),
)
def test_the_best_are_those_of_a_stable_sort(seed, rows, columns, share, tied, data):
    k = data.draw(st.integers(1, columns))
    size = data.draw(st.integers(1, columns + 1))
    generator = np.random.default_rng(seed)
    scores = generator.integers(-2, 3, (rows, columns)) * 1.0 if tied else generator.normal(size=(rows, columns))
    scores[generator.random((rows, columns)) < share] = -np.inf
    scores = scores.astype(np.float32)
    expected_columns, expected_scores = by_sorting(scores, k)
    found_columns, found_scores = top_columns(blocks_of(torch.from_numpy(scores), size), k)
    np.testing.assert_array_equal(found_columns.numpy(), expected_columns)
    np.testing.assert_array_equal(found_scores.numpy(), expected_scores)


@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_no_order_of_the_columns_is_too_hard(order):
    scores = np.tile(np.linspace(-3, 3, 5000, dtype=np.float32), (3, 1))
    scores = {"ascending": scores, "descending": -scores, "equal": scores * 0}[order]
    expected, _ = by_sorting(scores, 20)
    found, _ = top_columns(blocks_of(torch.from_numpy(scores), 640), 20)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_selection_of_accelerators_finds_the_same():
    scores = np.random.default_rng(0).permutation(900).astype(np.float32).reshape(3, 300)
    scores[0, 5:] = -np.inf
    expected_columns, expected_scores = by_sorting(scores, 12)
    for size in (7, 100, 300):
        plain = _Plain(3, 12)
        for start, block in blocks_of(torch.from_numpy(scores), size):
            plain.add(start, block)
        columns, best = plain.result()
        np.testing.assert_array_equal(columns.numpy(), expected_columns)
        np.testing.assert_array_equal(best.numpy(), expected_scores)


def test_without_columns_there_is_nothing_to_choose():
    with pytest.raises(ValueError, match="no columns"):
        top_columns([], 3)


@settings(max_examples=200)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 45), st.integers(0, 10_000), st.booleans())
def test_one_block_is_selected_from_as_many_are(rows, columns, k, seed, with_ties):
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, 6, (rows, columns)) if with_ties else generator.permutation(rows * columns)
    scores = torch.from_numpy(drawn.reshape(rows, columns).astype(np.float32))
    scores[generator.random((rows, columns)) < 0.2] = -torch.inf
    k = min(k, columns)
    whole = top_columns([(0, scores.clone())], k)
    cut = columns // 2
    parts = top_columns([(0, scores[:, :cut].clone()), (cut, scores[:, cut:].clone())], k) if cut else whole
    torch.testing.assert_close(whole, parts)
