"""Training photographs, varied: each time round they look like other photographs of the same things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """How far a training photograph is varied, each time anew: enough to be another photograph of the same plant.

    ``rotation`` in degrees to either side; ``zoom``, ``shift`` (of the side), ``brightness`` (of 255) and
    ``contrast`` as fractions to either side; ``flip`` mirrors half of them. What comes into view repeats the edge.
    """

    flip: bool = True
    rotation: float = 15.0
    zoom: float = 0.15
    shift: float = 0.08
    brightness: float = 0.12
    contrast: float = 0.2


def augment(pixels: tf.Tensor, seed: tf.Tensor, strength: Augmentation) -> tf.Tensor:
    """Vary a batch (float32 [N, H, W, 3], 0..255): one affine warp, then brightness and contrast; clipped to 0..255."""
    import tensorflow as tf

    count = tf.shape(pixels)[0]
    height, width = float(pixels.shape[1]), float(pixels.shape[2])
    seeds = tf.random.split(seed, 7)

    def spread(index: int, reach: float) -> Any:
        return tf.random.stateless_uniform((count,), seeds[index], -reach, reach)

    angle = spread(0, strength.rotation * np.pi / 180)
    scale = 1 + spread(1, strength.zoom)
    mirror = tf.sign(spread(2, 1.0)) if strength.flip else tf.ones((count,))
    # Output to input coordinates about the centre: mirror, turn and zoom, then shift.
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b, d, e = cos * mirror, -sin, sin * mirror, cos
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    c = middle_x - a * middle_x - b * middle_y + spread(3, strength.shift) * width
    f = middle_y - d * middle_x - e * middle_y + spread(4, strength.shift) * height
    zero = tf.zeros_like(a)
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=tf.shape(pixels)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    mean = tf.reduce_mean(warped, axis=(1, 2, 3), keepdims=True)
    contrast = 1 + spread(5, strength.contrast)[:, None, None, None]
    brightness = 255 * spread(6, strength.brightness)[:, None, None, None]
    varied = tf.clip_by_value((warped - mean) * contrast + mean + brightness, 0.0, 255.0)
    varied.set_shape(pixels.shape)
    return varied
