"""Photographs as batches of tensors.

Pixels come from ``leafport.images.read``, in training as in evaluation; only batches that are learned from are varied
afterwards. Whatever is learned from is read by its number, from a ``Source``: photographs, or a frozen network's
features of them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from leafport import images
from leafport.contract import ImageInput
from leafport.errors import ImageError
from leafport.training.data import sampling, shares
from leafport.training.data.augment import Augmentation, Part, augment, mix
from leafport.training.data.sampling import Sampling
from leafport.training.data.store import Store

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

log = logging.getLogger("leafport.training")


class Source(Protocol):
    """Arrays of one shape and dtype, by number. ``read`` is called from several threads."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Chosen:
    """Some of a source's arrays, in the order of their ``numbers``."""

    source: Source
    numbers: Sequence[int] | np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int) -> np.ndarray:
        """One of the arrays."""
        return self.source.read(int(self.numbers[index]))


class Pixels:
    """Photographs as ``rule`` wants them: uint8 [H, W, 3] each; or as each of several rules does: [rules, H, W, 3].

    With a ``cache`` folder each is decoded once and then kept on disk; a full disk ends the keeping, nothing else.
    ``read`` raises ImageError for a photograph that cannot be used.
    """

    dtype = np.dtype("uint8")

    def __init__(self, paths: Sequence[Path], rule: ImageInput, *more: ImageInput, cache: Path | None = None) -> None:
        self.paths, self.rules = paths, (rule, *more)
        self.shape = (*([1 + len(more)] if more else []), rule.height, rule.width, 3)
        self._kept = None if cache is None else Store(cache, len(paths), self.shape, "uint8")

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> np.ndarray:
        """The pixels of one photograph, of ``shape``."""
        kept = self._kept
        if kept is not None and (found := kept.get(index)) is not None:
            return found
        photograph = images.open_rgb(self.paths[index])
        pixels = np.stack([images.fit(photograph, rule) for rule in self.rules]).reshape(self.shape)
        if kept is not None:
            try:
                kept.put(index, pixels)
            except OSError as problem:
                log.warning("photographs are decoded anew each time: they cannot be kept (%s)", problem.strerror)
                self._kept = None
        return pixels


def training_batches(
    source: Source,
    truth: np.ndarray,
    *,
    classes: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation | None = None,
    sampled: Sampling = "all",
    start: int = 0,
) -> tf.data.Dataset:
    """What is learned from, without end: (float32 [batch_size, ...], float32 one-hot [batch_size, classes]).

    Each time round comes in another order, straight after the one before it, so that every batch is full. The
    same seed gives the same batches, however many cores prepare them, and ``start`` enters them at any batch. Where
    several processes share each batch (``data.shares``), these are its rows that this one has.

    Args:
        truth: int [N], which class each of the source's N arrays shows.
        augmentation: how photographs (uint8 [H, W, 3], or [ways, H, W, 3] of which one is drawn) are varied and mixed;
            None leaves the source's arrays alone.
        start: how many batches to leave out.
    """
    import tensorflow as tf

    several = source.shape[0] if len(source.shape) == 4 else None
    own = shares.own().rows(batch_size)
    # Each photograph is mixed with the one before it: where that is another process's, it is read here too.
    before = 1 if augmentation and augmentation.mixes and len(own) < batch_size else 0
    part = Part(tuple(row % batch_size for row in range(own.start - before, own.stop)), batch_size)

    def numbers() -> Iterator[int]:
        order = sampling.order(truth, sampled, seed=seed, start=start * batch_size)
        while True:
            batch = list(itertools.islice(order, batch_size))
            yield from (batch[row] for row in part.rows)

    def vary(step: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        values, labels = batch[0], tf.one_hot(batch[1], classes)
        if augmentation is None:
            return tf.cast(values, tf.float32), labels
        seeds = tf.stack([tf.constant(seed, tf.int64), step])
        if several:  # Ways to shrink each photograph: one is drawn.
            ways = tf.random.stateless_uniform((batch_size,), seeds, 0, several, tf.int64)
            values = tf.gather(values, tf.gather(ways, part.rows), axis=1, batch_dims=1)
        varied, labels = mix(augment(values, seeds, augmentation, part), labels, seeds, augmentation, part)
        return varied[before:], labels[before:]

    indices = tf.data.Dataset.from_generator(numbers, output_signature=tf.TensorSpec((), tf.int64))
    batches = _load(indices, source, truth).batch(len(part.rows), drop_remainder=True).enumerate(start)
    return batches.map(vary, num_parallel_calls=os.cpu_count() or 1, deterministic=True).prefetch(2)


def batches(source: Source, truth: np.ndarray, *, classes: int, batch_size: int) -> tf.data.Dataset:
    """Everything once, in order: (float32 [<= batch_size, ...], float32 one-hot [<= batch_size, classes]).

    Where several devices share each batch (``data.shares``) it is this process's rows of it, and a weight for each:
    0 for what fills the last batch, else 1.
    """
    import tensorflow as tf

    share = shares.own()
    places = share.places(len(source), batch_size)
    indices = tf.data.Dataset.from_tensor_slices(np.minimum(places, len(source) - 1))
    loaded = _load(indices, source, truth).batch(len(share.rows(batch_size)))
    one_hot = loaded.map(lambda values, labels: (tf.cast(values, tf.float32), tf.one_hot(labels, classes)))
    if share.devices > 1:
        weights = tf.data.Dataset.from_tensor_slices((places < len(source)).astype(np.float32))
        one_hot = tf.data.Dataset.zip(one_hot, weights.batch(len(share.rows(batch_size)))).map(lambda b, w: (*b, w))
    return one_hot.prefetch(2)


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


def read_ahead(source: Source, batch_size: int = 32) -> Iterator[np.ndarray]:
    """Everything once, in order, as [<= batch_size, ...]; the next batch is read while one is used.

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    chunks = [range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size)]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        ahead = [pool.submit(source.read, index) for index in (chunks[0] if chunks else ())]
        for number in range(len(chunks)):
            following = chunks[number + 1] if number + 1 < len(chunks) else ()
            current, ahead = ahead, [pool.submit(source.read, index) for index in following]
            yield np.stack([future.result() for future in current])


def answers(model: keras.Model, source: Source, batch_size: int = 32) -> Iterator[np.ndarray]:
    """What ``model`` (float32 [N, ...] to float32 [N, ...]) says of everything in ``source``, batch by batch.

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    share, ask, left = shares.own(), _answering(model), len(source)
    size = share.batch_size(batch_size)
    own = Chosen(source, np.minimum(share.places(left, size), left - 1))
    for batch in read_ahead(own, len(share.rows(size))):
        yield ask(batch)[:left]
        left -= size


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
    found = [np.empty((0, model.output_shape[-1]), np.float32)]
    done = 0
    for batch in answers(model, Pixels(paths, rule), batch_size):
        found.append(batch)
        done += len(batch)
        if progress:
            progress(done, len(paths))
    return np.concatenate(found)


def _answering(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    import keras

    if keras.backend.backend() == "jax":
        return shares.answering(model)
    import tensorflow as tf

    traced = tf.function(lambda values: model(tf.cast(values, tf.float32), training=False), reduce_retracing=True)
    return lambda batch: np.asarray(traced(batch))


def _load(indices: tf.data.Dataset, source: Source, truth: np.ndarray) -> tf.data.Dataset:
    """Numbers to (array, int32 label); arrays are read on all cores, and stay in order."""
    import tensorflow as tf

    labels = tf.constant(np.asarray(truth, np.int32))
    dtype = tf.as_dtype(source.dtype)

    def load(index: Any) -> tuple[Any, Any]:
        value = tf.numpy_function(lambda number: source.read(int(number)), [index], dtype, stateful=False)
        value.set_shape(source.shape)
        return value, labels[index]

    return indices.map(load, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
