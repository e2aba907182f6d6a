"""Photographs that show the same picture in other bytes: re-encoded, resized, a little retouched.

Two such photographs on two sides of a split make a classifier look better than it is, and two under two labels teach
it nonsense. They are known by their perceptual hash, 64 bits that say where the coarse picture is brighter than its
median (Zauner 2010, as the imagehash library computes it): alike pictures differ in few bits, strangers in about 32.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from leafport import images
from leafport.training.data.splits import Photo, PhotoFolder

MAX_DISTANCE = 8
_ROWS = 256


def find(folder: PhotoFolder, *, progress: Callable[[int, int], None] | None = None) -> list[list[Photo]]:
    """The groups of two or more photographs of a folder that show the same picture.

    Raises:
        ImageError: a photograph has changed or gone since it was scanned.
    """
    hashes = perceptual_hashes([folder.root / photo.path for photo in folder.photos], progress=progress)
    return [[folder.photos[index] for index in group] for group in groups(hashes)]


def perceptual_hashes(paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """The perceptual hash of each photograph, upright and in colour turned grey: uint64 [N].

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    found = np.zeros(len(paths), np.uint64)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for index, value in enumerate(pool.map(_hash, paths)):
            found[index] = value
            if progress:
                progress(index + 1, len(paths))
    return found


def groups(hashes: np.ndarray, max_distance: int = MAX_DISTANCE) -> list[list[int]]:
    """Which photographs belong together: lists of two or more indices, each in order, the lists by their first.

    Two belong together when their hashes (uint64 [N]) differ in at most ``max_distance`` bits, or when a chain of
    such pairs joins them.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(hashes)
    firsts, seconds = [], []
    for start in range(0, count, _ROWS):  # A band of the matrix at a time, so that memory grows with N only.
        distance = np.bitwise_count(hashes[start : start + _ROWS, None] ^ hashes[None, :])
        first, second = np.nonzero(distance <= max_distance)
        firsts.append(first + start)
        seconds.append(second)
    if not count:
        return []
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    near = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, component = connected_components(near, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(component):
        members[int(label)].append(index)
    return [group for group in members.values() if len(group) > 1]


def _hash(path: Path) -> int:
    import imagehash

    bits = imagehash.phash(images.open_rgb(path)).hash
    return int.from_bytes(np.packbits(bits).tobytes())
