"""Why a file's answers are not the classifier's: mistakes that conversions make, tried out on the photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

ALIKE = 0.95
"""The share of photographs with the same top class from which on answers count as explained."""
_SAME = 0.05  # Probabilities in another order are those very probabilities.
_TRIED = 64
_SCALINGS: Mapping[str, tuple[tuple[float, ...], float]] = {
    "from -1 to 1": ((127.5,), 127.5),
    "divided by 127.5": ((0.0,), 127.5),
    "divided by 255": ((0.0,), 255.0),
    "less ImageNet's mean": ((123.68, 116.779, 103.939), 1.0),
}


def diagnosis(predict: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, expected: np.ndarray) -> str | None:
    """What explains answers that are not ``expected``, in a clause, or None where nothing that is tried does.

    Args:
        predict: from photographs (uint8 [N, H, W, 3], RGB) to probabilities (float32 [N, classes]). It may refuse
            floats.
        pixels: the photographs; only the first are used.
        expected: the classifier's probabilities of them, float32 [N, classes].
    """
    pixels, expected = pixels[:_TRIED], expected[:_TRIED]
    found = predict(pixels)
    if _alike(found, expected) or len({*expected.argmax(axis=1).tolist()}) == 1:
        return None
    if _alike(predict(np.ascontiguousarray(pixels[..., ::-1])), expected):
        return "it answers rightly when red and blue are exchanged: it takes BGR where the contract says RGB"
    for scaled, (mean, std) in _SCALINGS.items():
        try:
            answers = predict((pixels - np.array(mean, np.float32)) / np.float32(std))
        except Exception:  # A runtime that takes bytes only; each has its own way to say so.
            break
        if _alike(answers, expected):
            return f"it answers rightly when it is given pixels {scaled}: that is missing in it"
    order = linear_sum_assignment(cdist(expected.T, found.T, "cityblock"))[1]
    moved = np.flatnonzero(order != np.arange(len(order)))
    same = np.abs(found[:, order] - expected).max() < _SAME
    if len(moved) and same and expected.max() > 10 * _SAME and _alike(found[:, order], expected):
        first = int(moved[0])
        return (
            f"its answers are right in another order: what is at number {order[first]} belongs to label number {first}"
        )
    return None


def _alike(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool((found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= ALIKE)
