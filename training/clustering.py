"""Weight clustering: a layer's weights share a few values, and what they share learns on.

A file with 16 different values a layer takes half the room once it is zipped, as apps are shipped (Han et al. 2016,
"Deep Compression"). Here the values are shares of the largest weight of a channel, and -1, 0 and 1 are among them: so
they stay as few when normalisation is folded into the channels and 8-bit files give each channel a scale of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leafport import palette
from leafport.training import pruning

if TYPE_CHECKING:
    import keras

FEWEST, MOST = 4, 64
_END = 127  # What the cluster of 1 is called; that of -1 is -_END.


class Clusters:
    """Which of a model's weights share a value, settled when this is made."""

    def __init__(self, model: keras.Model, count: int) -> None:
        """Divide the weights of each layer, those that ``pruning.compressible`` names, into ``count`` clusters."""
        self._members = [(weights, assigned(np.asarray(weights), count)) for weights in pruning.compressible(model)]

    def share(self) -> None:
        """Give each weight its cluster's value, after an optimiser has moved all of them one by one."""
        for weights, members in self._members:
            weights.assign(shared(np.asarray(weights), members))


def assigned(weights: np.ndarray, count: int) -> np.ndarray:
    """The cluster of each weight, int8 in the shape of ``weights``.

    0 is the cluster of zeros, and -127 and 127 are those of a channel's largest weights. Weights that are clustered
    already stay in their clusters.

    Args:
        weights: a kernel, [..., outputs]; each output is a channel, but for a dense one ([inputs, outputs]), which has
            one scale in all, as TFLite has it.
        count: of the clusters, FEWEST to MOST.
    """
    largest = np.abs(weights).max(axis=_within(weights), keepdims=True)
    relative = weights / np.where(largest > 0, largest, 1)
    values = palette.levels(relative, count)
    names = np.arange(len(values)) - np.searchsorted(values, 0)
    names[[0, -1]] = -_END, _END
    found: np.ndarray = names[palette.nearest(values, relative)]
    return found.astype(np.int8)


def shared(weights: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The nearest weights that are shared: a cluster's value times a channel's scale, in the dtype of ``weights``.

    A scale is the mean size of the channel's largest weights, and the values between have the smallest squared errors.
    """
    within = _within(weights)
    largest = np.abs(members) == _END
    count = np.maximum(largest.sum(axis=within, keepdims=True), 1)
    scale = np.where(largest, np.sign(members) * weights, 0).sum(axis=within, keepdims=True, dtype=np.float64) / count
    places = members.ravel().astype(np.intp) + _END
    weight = np.broadcast_to(scale**2, weights.shape).ravel()
    size = 2 * _END + 1
    values = np.bincount(places, (weights * scale).ravel(), size) / np.maximum(np.bincount(places, weight, size), 1e-30)
    values = np.clip(values, -1, 1)
    values[[0, _END, -1]] = -1, 0, 1
    found: np.ndarray = values[places].reshape(weights.shape) * scale
    return found.astype(weights.dtype)


def _within(weights: np.ndarray) -> tuple[int, ...]:
    """The axes of a kernel whose weights have one scale."""
    return tuple(range(weights.ndim - 1)) if weights.ndim > 2 else (0, 1)
