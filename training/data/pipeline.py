"""Photographs as batches of tensors.

Pixels come from ``leafport.images.read``, in training as in evaluation; only batches that are learned from are varied
afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import images
from leafport.contract import ImageInput
from leafport.errors import ImageError
from leafport.training.data.augment import Augmentation, augment

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

CACHE_BYTES = 2**30


def batches(
    paths: Sequence[Path], truth: Sequence[int] | np.ndarray, rule: ImageInput, batch_size: int
) -> tf.data.Dataset:
    """Photographs once, in order: (uint8 [<= batch_size, H, W, 3], int32 [<= batch_size])."""
    import tensorflow as tf

    return _read(paths, truth, rule).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def training_batches(
    paths: Sequence[Path],
    truth: Sequence[int] | np.ndarray,
    rule: ImageInput,
    batch_size: int,
    *,
    seed: int,
    augmentation: Augmentation | None,
) -> tf.data.Dataset:
    """Photographs without end, shuffled anew each time round and varied: (float32 [N, H, W, 3] 0..255, int32 [N]).

    An epoch is ``ceil(len(paths) / batch_size)`` batches, the last of which may be smaller. The same seed gives the
    same batches, however many cores prepare them.
    """
    import tensorflow as tf

    photographs = _read(paths, truth, rule)
    if len(paths) * rule.height * rule.width * 3 <= CACHE_BYTES:
        photographs = photographs.cache()  # Decoding a phone's photograph takes longer than learning from it.
    photographs = photographs.shuffle(max(1, min(len(paths), 4096)), seed=seed).batch(batch_size).repeat()

    def vary(step: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        pixels = tf.cast(batch[0], tf.float32)
        if augmentation is not None:
            pixels = augment(pixels, tf.stack([tf.constant(seed, tf.int64), step]), augmentation)
        return pixels, batch[1]

    numbered = tf.data.Dataset.zip((tf.data.Dataset.counter(), photographs))
    return numbered.map(vary, num_parallel_calls=os.cpu_count() or 1, deterministic=True).prefetch(2)


@contextlib.contextmanager
def naming_photographs() -> Iterator[None]:
    """Around whatever consumes batches: a photograph that cannot be read any more is an ImageError again.

    TensorFlow wraps what its Python functions raise into an error of its own, with the message somewhere inside.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as problem:
        if found := re.search(r"ImageError: (.+)", problem.message):
            raise ImageError(found[1]) from problem
        raise


def read_ahead(paths: Sequence[Path], rule: ImageInput, batch_size: int = 32) -> Iterator[np.ndarray]:
    """Photographs once, in order, as uint8 [<= batch_size, H, W, 3]; the next batch is read while one is used.

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    chunks = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        ahead = [pool.submit(images.read, path, rule) for path in (chunks[0] if chunks else ())]
        for index in range(len(chunks)):
            following = chunks[index + 1] if index + 1 < len(chunks) else ()
            current, ahead = ahead, [pool.submit(images.read, path, rule) for path in following]
            yield np.stack([future.result() for future in current])


def infer(
    model: keras.Model,
    paths: Sequence[Path],
    rule: ImageInput,
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """What ``model`` (float32 [N, H, W, 3], RGB 0..255, to float32 [N, outputs]) says of photographs, in order.

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    import tensorflow as tf

    def call(pixels: Any) -> Any:
        return model(tf.cast(pixels, tf.float32), training=False)

    traced = tf.function(call, reduce_retracing=True)
    found = [np.empty((0, model.output_shape[-1]), np.float32)]
    done = 0
    for batch in read_ahead(paths, rule, batch_size):
        found.append(traced(batch).numpy())
        done += len(batch)
        if progress:
            progress(done, len(paths))
    return np.concatenate(found)


def _read(paths: Sequence[Path], truth: Sequence[int] | np.ndarray, rule: ImageInput) -> tf.data.Dataset:
    import tensorflow as tf

    def read(path: bytes) -> np.ndarray:
        return images.read(Path(os.fsdecode(path)), rule)

    def load(path: Any, label: Any) -> tuple[Any, Any]:
        pixels = tf.numpy_function(read, [path], tf.uint8, stateful=False)
        pixels.set_shape((rule.height, rule.width, 3))
        return pixels, label

    names = tf.constant([os.fsencode(path) for path in paths], tf.string)
    pairs = tf.data.Dataset.from_tensor_slices((names, np.asarray(truth, np.int32)))
    return pairs.map(load, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
