"""Palettes: few values near many weights, and the same ones where weights have few values already."""

from __future__ import annotations

import numpy as np
import pytest

from leafport.palette import chosen, fine_size, levels, nearest


@pytest.fixture
def weights() -> np.ndarray:
    """As shares of the largest of their channel: of 64 channels, so many that none is far from the next."""
    found = np.random.default_rng(1).normal(size=(20_000, 64))
    return found / np.abs(found).max(axis=0)


@pytest.mark.parametrize("count", [4, 16, 64])
def test_values_lie_where_weights_do(weights: np.ndarray, count: int) -> None:
    found = levels(weights, count)
    assert len(found) == count
    assert (np.diff(found) > 0).all() and {-1, 0, 1} <= set(found)
    even = np.linspace(-1, 1, count)
    errors = [np.square(weights - values[nearest(values, weights)]).mean() for values in (found, even)]
    assert errors[0] < errors[1] or count == 4  # Of four values three are given.


def test_weights_of_few_values_keep_them(weights: np.ndarray) -> None:
    found = levels(weights, 16)
    few = found[nearest(found, weights)]
    np.testing.assert_allclose(levels(few, 16), found, atol=1e-12)
    np.testing.assert_allclose(levels(few, 64), found, atol=1e-12)
    noisy = few * np.random.default_rng(0).uniform(1 - 5e-4, 1 + 5e-4, few.shape)
    again = levels(noisy, 64, same=2e-3)
    assert len(again) <= 16
    np.testing.assert_allclose(again[nearest(again, noisy)], few, atol=2e-3)


def test_nothing_but_zeros_and_largest_weights() -> None:
    np.testing.assert_array_equal(levels(np.array([[0.0, 1.0], [-1.0, 0.0]]), 16), [-1, 0, 1])
    np.testing.assert_array_equal(levels(np.zeros(5), 16), [-1, 0, 1])


@pytest.mark.parametrize("count", [16, 64])
def test_scales_of_their_own_bring_values_nearer(count: int) -> None:
    random = np.random.default_rng(2)
    weights = random.standard_t(4, size=(1, 400, 30)) * random.uniform(0.1, 3, 30)  # A few are far out.
    largest = np.abs(weights).max(axis=1, keepdims=True)
    plain = levels(weights / largest, count)
    found, scale = chosen(weights, largest, count)
    assert len(found) == count and scale.shape == largest.shape and (scale <= largest).all()
    errors = [
        np.square(weights - each * values[nearest(values, weights / each)]).mean()
        for values, each in ((found, scale), (plain, largest))
    ]
    assert errors[0] < 0.97 * errors[1]


def test_weights_of_few_values_keep_their_scale(weights: np.ndarray) -> None:
    found = levels(weights, 12)
    few = (found[nearest(found, weights)] * 3)[None]
    again, scale = chosen(few, np.abs(few).max(axis=1, keepdims=True), 16)
    np.testing.assert_allclose(again, found, atol=1e-9)
    np.testing.assert_allclose(scale, 3)


def test_the_smallest_layers_hold_a_share_at_most() -> None:
    sizes = [100, 10, 10, 30, 850]
    assert [fine_size(sizes, share) for share in (0, 0.01, 0.02, 0.05, 0.14, 0.15, 1)] == [0, 0, 10, 30, 30, 100, 850]
    assert fine_size([], 0.5) == 0
