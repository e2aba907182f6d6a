"""What a pretrained network sees in photographs: its pooled features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport.contract import ImageInput
from leafport.training import backbones
from leafport.training.data import pipeline

if TYPE_CHECKING:
    import keras


class Extractor:
    """A backbone with its weights, ready to turn photographs into features.

    Raises:
        ModelError: there is no such backbone, or its weights are missing or another network's.
    """

    def __init__(self, backbone: str, weights: str) -> None:
        size = backbones.row(backbone).image_size
        self._model = backbones.build(backbone, classes=2, image_size=size, weights=weights).features
        self._rule = ImageInput(height=size, width=size)

    def __call__(self, paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Features of photographs as they are: float32 [N, channels]. Raises ImageError."""
        return extract(self._model, paths, self._rule, progress=progress)


def extract(
    model: keras.Model,
    paths: Sequence[Path],
    rule: ImageInput,
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """What ``model`` (float32 [N, H, W, 3], RGB 0..255, to float32 [N, channels]) says of photographs, in order.

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    import tensorflow as tf

    def infer(pixels: Any) -> Any:
        return model(tf.cast(pixels, tf.float32), training=False)

    traced = tf.function(infer, reduce_retracing=True)
    found, done = [], 0
    for batch in pipeline.read_ahead(paths, rule, batch_size):
        found.append(traced(batch).numpy())
        done += len(batch)
        if progress:
            progress(done, len(paths))
    return np.concatenate(found)
