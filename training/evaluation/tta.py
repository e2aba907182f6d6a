"""Test-time augmentation: asking about several views of a photograph and averaging the answers.

The views are always the same, so figures are too. An answer costs as much more as there are views, and an exported
file gives one answer: an app has to ask several times to be as good as these figures.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leafport import images
from leafport.classifier import Classifier
from leafport.contract import ImageInput

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """A part of a photograph, as shares of its width and height (left, top, right, bottom), maybe mirrored."""

    name: str
    box: Box = (0, 0, 1, 1)
    mirrored: bool = False


_MIDDLE: Box = (1 / 16, 1 / 16, 15 / 16, 15 / 16)
VIEWS = (
    View("whole"),
    View("whole, mirrored", mirrored=True),
    View("middle", _MIDDLE),
    View("middle, mirrored", _MIDDLE, mirrored=True),
)
"""Eight more, of the corners, bought nothing: 79.1 % right of 416 validation photographs of plants, with these 79.6 %,
asked plainly 77.4 %; the log loss fell from 0.87 to 0.78 with either."""


def read(path: Path, rule: ImageInput, views: Sequence[View] = VIEWS) -> np.ndarray:
    """The views of one photograph: uint8 [views, height, width, 3]. The part is taken first, then resized.

    Raises:
        ImageError: the photograph cannot be used.
    """
    photo = images.open_rgb(path)
    seen: dict[Box, np.ndarray] = {}
    for box in dict.fromkeys(view.box for view in views):
        left, top, right, bottom = (
            round(share * side) for share, side in zip(box, (photo.width, photo.height) * 2, strict=True)
        )
        part = photo.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        seen[box] = images.fit(part, rule)
    return np.stack([seen[view.box][:, ::-1] if view.mirrored else seen[view.box] for view in views])


def predict(
    classifier: Classifier,
    paths: Sequence[Path],
    *,
    views: Sequence[View] = VIEWS,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Probabilities (float32 [N, classes]) of photographs, each averaged over its views.

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    rule = classifier.contract.image
    found = [np.empty((0, len(classifier.contract.labels)), np.float32)]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            pixels = np.concatenate(list(pool.map(read, chunk, itertools.repeat(rule), itertools.repeat(views))))
            answers = classifier.predict(pixels)
            found.append(answers.reshape(len(chunk), len(views), -1).mean(axis=1))
            if progress:
                progress(start + len(chunk), len(paths))
    return np.concatenate(found)
