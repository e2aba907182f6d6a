"""In which order photographs are learned from, and how often each.

The order is a function of the seed and nothing else, and can be entered at any place: a training that goes on after
it was killed sees the photographs the undisturbed one would have seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np

Sampling = Literal["all", "over", "under"]


def cycle_length(truth: np.ndarray, sampling: Sampling) -> int:
    """How many photographs one time round holds."""
    counts = np.bincount(truth)
    counts = counts[counts > 0]
    return {"all": len(truth), "over": len(counts) * int(counts.max()), "under": len(counts) * int(counts.min())}[
        sampling
    ]


def order(truth: np.ndarray, sampling: Sampling = "all", *, seed: int, start: int = 0) -> Iterator[int]:
    """Indices of photographs without end, in random order, from the ``start``-th on.

    Each time round every photograph comes once ("all"); or every class as often as the largest, with photographs of
    the smaller ones repeated, each as evenly as can be ("over"); or every class as often as the smallest, with other
    photographs of the larger ones each time ("under").

    Args:
        truth: int [N], each photograph's label.
    """
    length = cycle_length(truth, sampling)
    skip = start % length
    for cycle in itertools.count(start // length):
        yield from _cycle(truth, sampling, np.random.default_rng((seed, cycle)))[skip:].tolist()
        skip = 0


def _cycle(truth: np.ndarray, sampling: Sampling, random: np.random.Generator) -> np.ndarray:
    if sampling == "all":
        return random.permutation(len(truth))
    members = [np.flatnonzero(truth == label) for label in np.unique(truth)]
    sizes = [len(one) for one in members]
    wanted = max(sizes) if sampling == "over" else min(sizes)
    drawn = [
        np.concatenate([random.permutation(one) for _ in range(-(-wanted // len(one)))])[:wanted] for one in members
    ]
    return random.permutation(np.concatenate(drawn))
