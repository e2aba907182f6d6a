"""Magnitude pruning: the smallest weights become zeros, a few more at every step, and the others learn to do without.

Zeros cost a file nothing once it is zipped, as apps are shipped, and they stay zeros when weights become 8-bit numbers.
They make nothing faster on a phone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from leafport.training.heads import PROBABILITIES

if TYPE_CHECKING:
    import keras

LEAST = 1024


def compressible(model: keras.Model) -> list[Any]:
    """The kernels, as variables, that pruning and clustering may change.

    Layers with less than LEAST weights, depthwise ones and the last one keep theirs: what they could save is little,
    and what they would lose is not. So do frozen layers.
    """
    return [
        weights
        for weights in model.trainable_variables
        if weights.path.endswith("/kernel")
        and f"{PROBABILITIES}/" not in weights.path
        and weights.shape[-1] > 1  # A depthwise kernel is [height, width, channels, 1].
        and np.prod(weights.shape) >= LEAST
    ]


def share(final: float, progress: float) -> float:
    """How many of the weights are zeros when ``progress`` of the way there is gone, both 0 to 1.

    Many in the beginning, when there is most to choose from, and ever fewer (Zhu and Gupta 2017, "To prune, or not to
    prune").
    """
    return final * (1 - (1 - min(max(progress, 0.0), 1.0)) ** 3)


def prune(model: keras.Model, zeros: float) -> None:
    """Set so large a share of each compressible layer's weights to zero, the smallest of those that it has now."""
    for weights in compressible(model):
        values = np.asarray(weights)
        count = round(zeros * values.size)
        if count:
            size = np.abs(values)
            limit = np.partition(size, count - 1, axis=None)[count - 1]
            weights.assign(np.where(size <= limit, 0, values))


def sparsity(model: keras.Model) -> float:
    """The share of zeros among the compressible weights."""
    found = [np.asarray(weights) for weights in compressible(model)]
    return float(sum((values == 0).sum() for values in found) / max(sum(values.size for values in found), 1))
