"""Palettes: the few values that a layer's weights may have, as shares of the largest weight of their channel.

Clustered training gives weights such values, palettised files store them by their numbers, and rounding for such files
chooses among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NOTHING = 1e-5
_ROUNDS = 3
_SHARES = np.linspace(1, 0.6, 9)
_SAMPLE = 4096  # So many of a layer's weights, evenly from the smallest to the largest, say where its values lie.


def levels(relative: np.ndarray, count: int, *, same: float = 1e-4) -> np.ndarray:
    """At most ``count`` values that weights are near to, float64, ascending, with -1, 0 and 1 among them.

    Weights that have so few values already keep them.

    Args:
        relative: weights, of any shape, as shares of the largest of their channel: -1 to 1.
        count: 4 or more.
        same: values no further apart than this share of them are one.
    """
    inner = np.sort(relative[(relative != 0) & (np.abs(relative) < 1 - same)].astype(np.float64), axis=None)
    near = same * np.abs(inner) + _NOTHING
    starts = np.flatnonzero(np.diff(inner, prepend=-2.0) > near)
    ends = np.append(starts[1:], len(inner))[: len(starts)]
    if len(starts) <= count - 3 and np.all(inner[ends - 1] - inner[starts] <= 2 * near[starts]):
        found = (inner[starts] + inner[ends - 1]) / 2
    else:
        found = _centres(inner, count - 3)
    return np.sort([-1.0, *found, 0.0, 1.0])


def chosen(weights: np.ndarray, largest: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values, as of ``levels``, and a scale for each channel: together those that weights lie nearest to.

    A channel whose scale is less than its largest weight has finer steps for all its others.

    Args:
        weights: float64 [groups, inputs, outputs].
        largest: the largest weight of each output, or of all, in a shape that goes with them; none of them 0.

    Returns:
        ``count`` values at most, and scales in the shape of ``largest``.
    """
    found, scale = levels(weights / largest, count), largest
    if len(found) < count:
        return found, scale
    for _ in range(_ROUNDS):
        tried = [largest * share for share in _SHARES]
        errors = [_error(weights, each, found).sum(axis=_summed(largest), keepdims=True) for each in tried]
        scale = np.choose(np.argmin(errors, axis=0), tried)
        found = levels(np.clip(weights / scale, -1, 1), count)
    return found, scale


def _error(weights: np.ndarray, scale: np.ndarray, found: np.ndarray) -> np.ndarray:
    error: np.ndarray = (weights - scale * found[nearest(found, weights / scale)]) ** 2
    return error


def _summed(scale: np.ndarray) -> tuple[int, ...]:
    """The axes that share a scale."""
    return tuple(axis for axis, size in enumerate(scale.shape) if size == 1)


def fine_size(sizes: Sequence[int], share: float) -> int:
    """The size up to which layers get 8 bits, not a palette: the smallest, which hold at most ``share`` of all weights.

    The first layers of a network are small, and what is lost in them every other layer sees.
    """
    allowed, largest = share * sum(sizes), 0
    for size in sorted({*sizes}):
        if sum(one for one in sizes if one <= size) <= allowed:
            largest = size
    return largest


def nearest(levels: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """The place in ``levels`` (intp, in the shape of ``relative``) of the value next to each."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, relative)


def _centres(values: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` centres of sorted values, by k-means."""
    from sklearn.cluster import KMeans

    sample = values[np.linspace(0, len(values) - 1, _SAMPLE).astype(np.intp)].reshape(-1, 1)
    first = sample[np.linspace(0, _SAMPLE - 1, count + 2).astype(np.intp)[1:-1]]
    found: np.ndarray = KMeans(count, init=first, n_init=1).fit(sample).cluster_centers_.ravel()
    return found
