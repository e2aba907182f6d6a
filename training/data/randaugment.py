"""RandAugment (Cubuk et al. 2020): a few operations on each photograph, drawn from a fixed list, all equally strong.

The list and the strongest setting of each operation are AutoAugment's (Cubuk et al. 2019, table 6), and the operations
on colours are Pillow's, as there. Its five geometric operations become matrices, which ``augment`` multiplies into its
one warp: a photograph that is resampled once stays sharper than one resampled thrice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
IDENTITY = len(GEOMETRIC)
MAX_ROTATION = math.radians(30)
MAX_SHEAR = 0.3
MAX_TRANSLATION = 150 / 331
MAX_ENHANCEMENT = 0.9


def draw(count: Any, operations: int, magnitude: float, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Operations for ``count`` photographs: numbers (int32) into GEOMETRIC + COLOURS, and forces, -1..1 (float32).

    Both are [count, operations]. Forces are ``magnitude`` with either sign; operations that know no sign ignore it.
    """
    import tensorflow as tf

    which, sign = tf.unstack(tf.random.split(seed, 2))
    shape = (count, operations)
    numbers = tf.random.stateless_uniform(shape, which, 0, len(GEOMETRIC) + len(COLOURS), tf.int32)
    return numbers, magnitude * tf.sign(tf.random.stateless_uniform(shape, sign, -1.0, 1.0))


def geometry(numbers: tf.Tensor, forces: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """What the geometric ones do together: [N, 3, 3], from an output's coordinates in pixels to the input's."""
    import tensorflow as tf

    def force(name: str) -> Any:
        return tf.where(numbers == GEOMETRIC.index(name), forces, 0.0)

    angle = force("rotate") * MAX_ROTATION
    one, zero = tf.ones_like(angle), tf.zeros_like(angle)
    turn = matrix(tf.cos(angle), -tf.sin(angle), zero, tf.sin(angle), tf.cos(angle), zero)
    lean = matrix(one, force("shear_x") * MAX_SHEAR, zero, force("shear_y") * MAX_SHEAR, one, zero)
    across, down = force("translate_x") * MAX_TRANSLATION * width, force("translate_y") * MAX_TRANSLATION * height
    place = matrix(one, zero, across, zero, one, down) @ lean @ turn
    whole = tf.eye(3, batch_shape=[tf.shape(numbers)[0]])
    for step in range(numbers.shape[1]):
        whole @= place[:, step]
    return whole


def matrix(a: tf.Tensor, b: tf.Tensor, c: tf.Tensor, d: tf.Tensor, e: tf.Tensor, f: tf.Tensor) -> tf.Tensor:
    """Affine maps (x, y) to (ax + by + c, dx + ey + f): six float32 [...] to [..., 3, 3]."""
    import tensorflow as tf

    one, zero = tf.ones_like(a), tf.zeros_like(a)
    rows = [tf.stack(row, axis=-1) for row in ((a, b, c), (d, e, f), (zero, zero, one))]
    return tf.stack(rows, axis=-2)


def colours(pixels: tf.Tensor, numbers: tf.Tensor, forces: tf.Tensor) -> tf.Tensor:
    """Do to each photograph (float32 [N, H, W, 3], 0..255) its operations on colours, one after the other."""
    import tensorflow as tf

    for step in range(numbers.shape[1]):
        chosen = tf.maximum(numbers[:, step] - IDENTITY, 0)  # Geometric ones leave colours alone, as identity.
        members = tf.dynamic_partition(tf.range(tf.shape(pixels)[0]), chosen, len(COLOURS))
        groups = [tf.gather(pixels, places) for places in members]
        strengths = [tf.gather(forces[:, step], places)[:, None, None, None] for places in members]
        done = [change(*group) for change, *group in zip(COLOURS.values(), groups, strengths, strict=True)]
        pixels = tf.ensure_shape(tf.dynamic_stitch(members, done), pixels.shape)
    return pixels


def _identity(pixels: Any, force: Any) -> Any:
    return pixels


def _auto_contrast(pixels: Any, force: Any) -> Any:
    """Each channel stretched to 0..255."""
    import tensorflow as tf

    low, high = (find(pixels, axis=(1, 2), keepdims=True) for find in (tf.reduce_min, tf.reduce_max))
    return tf.where(high > low, (pixels - low) * 255 / (high - low), pixels)


def _equalize(pixels: Any, force: Any) -> Any:
    """Every brightness about equally often, in each channel: as many levels as there were, farther apart."""
    import tensorflow as tf

    levels = tf.cast(tf.round(pixels), tf.int32)
    height, width = levels.shape[1:3]
    flat = tf.reshape(tf.transpose(levels, (0, 3, 1, 2)), (-1, height * width))
    counts = tf.math.bincount(flat, minlength=256, maxlength=256, axis=-1)
    highest = tf.gather(counts, tf.reduce_max(flat, axis=-1), batch_dims=1)
    step = ((height * width - highest) // 255)[:, None]
    table = (step // 2 + tf.cumsum(counts, axis=-1, exclusive=True)) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    done = tf.reshape(tf.gather(table, flat, batch_dims=1), (-1, 3, height, width))
    return tf.cast(tf.transpose(done, (0, 2, 3, 1)), tf.float32)


def _solarize(pixels: Any, force: Any) -> Any:
    import tensorflow as tf

    return tf.where(pixels >= 256 * (1 - tf.abs(force)), 255 - pixels, pixels)


def _posterize(pixels: Any, force: Any) -> Any:
    import tensorflow as tf

    step = 2 ** tf.round(4 * tf.abs(force))  # 8 bits are left, or 4 at most force.
    return tf.floor(pixels / step) * step


def _colour(pixels: Any, force: Any) -> Any:
    return _enhance(_grey(pixels), pixels, force)


def _contrast(pixels: Any, force: Any) -> Any:
    import tensorflow as tf

    return _enhance(tf.reduce_mean(_grey(pixels), axis=(1, 2), keepdims=True), pixels, force)


def _brightness(pixels: Any, force: Any) -> Any:
    return _enhance(0.0, pixels, force)


def _sharpness(pixels: Any, force: Any) -> Any:
    return _enhance(_smooth(pixels), pixels, force)


def _enhance(poor: Any, pixels: Any, force: Any) -> Any:
    """Away from a poorer photograph, or towards it."""
    import tensorflow as tf

    return tf.clip_by_value(poor + (pixels - poor) * (1 + MAX_ENHANCEMENT * force), 0.0, 255.0)


def _grey(pixels: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_sum(pixels * tf.constant((0.299, 0.587, 0.114)), axis=-1, keepdims=True)


def _smooth(pixels: Any) -> Any:
    """Each pixel among its eight neighbours, itself five times; the edge as it is."""
    import tensorflow as tf

    height, width = pixels.shape[1:3]
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = (around + 4 * pixels[:, 1:-1, 1:-1]) / 13
    inside = tf.pad(tf.ones((height - 2, width - 2), tf.bool), [[1, 1], [1, 1]])[None, :, :, None]
    return tf.where(inside, tf.pad(inner, [[0, 0], [1, 1], [1, 1], [0, 0]]), pixels)


COLOURS: dict[str, Callable[[Any, Any], Any]] = {
    "identity": _identity,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "solarize": _solarize,
    "posterize": _posterize,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
"""Each from float32 [n, H, W, 3], 0..255, and forces [n, 1, 1, 1], -1..1, to the same shape and range."""
