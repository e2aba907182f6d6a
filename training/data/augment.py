"""Training photographs, varied: each time round they look like other photographs of the same things.

Everything is drawn from a seed and nothing else, so that a training that was interrupted sees the same photographs
again. Keras's own layers would not do. They draw from a generator with a state; each geometric one resamples what the
one before it has blurred; and ``RandAugment`` draws its operations for a whole batch, and computes all eleven to use
one (53 ms of processor time for a photograph of 224 pixels, where this takes 2.7).
"""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

from leafport.contract import ImageInput
from leafport.errors import UserError
from leafport.training.data import randaugment

if TYPE_CHECKING:
    from collections.abc import Callable

    import tensorflow as tf

_MIX = 1
"""Folded into a seed for ``mix``, whose draws must not be those of ``augment`` for the same seed."""
_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


def _option(default: bool | float, most: float, text: str, least: float = 0.0) -> Any:
    return field(default=default, metadata={"least": least, "most": most, "help": text})


@dataclass(frozen=True)
class Augmentation:
    """How far a training photograph is varied, each time anew: enough to be another photograph of the same plant.

    Each value is how far a draw may lie to either side of nothing; each photograph of a batch has draws of its own.
    What comes into view repeats the edge. ``help`` in a field's metadata says what it does; ``least`` and ``most``
    are its limits.

    Raises:
        UserError: a value is outside its limits.
    """

    flip: bool = _option(True, 1, "mirror half of the photographs, left to right")
    rotation: float = _option(15.0, 180, "degrees it is turned")
    zoom: float = _option(0.15, 0.9, "share of its size by which it grows or shrinks")
    shift: float = _option(0.08, 1, "share of its side by which it moves, across and down")
    shear: float = _option(0.0, 60, "degrees its upright edges lean")
    brightness: float = _option(0.12, 1, "share of 255 that is added to every pixel")
    contrast: float = _option(0.2, 1, "share by which pixels move from or to their mean")
    channel_shift: float = _option(0.0, 1, "share of 255 that is added to red, green and blue, to each its own")
    randaugment: int = _option(0, 8, "number of RandAugment operations, drawn for every photograph")
    magnitude: float = _option(0.3, 1, "their strength, 1 being the most that AutoAugment tried")
    mixup: float = _option(0.0, 10, "mix photographs and their labels by shares from Beta(value, value)")
    cutmix: float = _option(0.0, 10, "paste a rectangle of another photograph, its share from Beta(value, value)")
    kernels: bool = _option(False, 1, "draw how a photograph is shrunk, since phones differ")
    probability: float = _option(1.0, 1, "share of the photographs that are varied (and of those mixed) at all")

    def __post_init__(self) -> None:
        for option in fields(self):
            value, least, most = getattr(self, option.name), option.metadata["least"], option.metadata["most"]
            if not least <= value <= most:  # Also false of what is not a number.
                raise UserError(
                    f"Augmentation: {option.name} is {value:g}; it must lie between {least:g} and {most:g}."
                )

    @property
    def mixes(self) -> bool:
        """Whether photographs are mixed with one another."""
        return bool(self.mixup or self.cutmix)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``rotation=25,mixup=0.2``: the defaults, changed. ``none,flip=yes`` starts from nothing instead.

        Raises:
            UserError: an unknown name, or a value that is no number or outside its limits.
        """
        kinds = {option.name: type(option.default) for option in fields(cls)}
        values: dict[str, Any] = {}
        for index, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
            name, given, value = (piece.strip() for piece in part.partition("="))
            name = name.lower().replace("-", "_")
            if index == 0 and not given and name in PRESETS:
                values = asdict(PRESETS[name])
                continue
            if name not in kinds:
                close = get_close_matches(name, kinds, 1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise UserError(
                    f"Augmentation: there is no {name!r}.{hint} There are: {', '.join(kinds)}; "
                    f"and, in the first place, {', '.join(PRESETS)}."
                )
            values[name] = _read(name, kinds[name], value)
        return cls(**values)


NONE = Augmentation(flip=False, rotation=0, zoom=0, shift=0, brightness=0, contrast=0)
PRESETS = {
    "none": NONE,
    "light": Augmentation(),
    "strong": Augmentation(
        rotation=30, zoom=0.3, shift=0.12, shear=12, brightness=0.2, contrast=0.35, channel_shift=0.08
    ),
}


@dataclass(frozen=True)
class Part:
    """Some of a batch's photographs: which, and how many the whole batch has. They are given what it would draw."""

    rows: tuple[int, ...]
    of: int


def augment(pixels: tf.Tensor, seed: tf.Tensor, strength: Augmentation, part: Part | None = None) -> tf.Tensor:
    """Vary the photographs of a batch: one affine warp, brightness, contrast and channels, then RandAugment's colours.

    Args:
        pixels: uint8 or float32 [N, H, W, 3], 0..255.
        seed: int64 [2]; the same seed gives the same result.
        part: where these are not the whole batch.

    Returns:
        float32 [N, H, W, 3], 0..255.
    """
    import tensorflow as tf

    pixels = tf.convert_to_tensor(pixels)
    count, ours = _drawn_for(pixels, part)
    height, width = pixels.shape[1:3]
    seeds = iter(tf.unstack(tf.random.split(seed, 13)))
    chosen = ours(tf.random.stateless_uniform((count,), next(seeds))) < strength.probability

    def spread(reach: float) -> Any:
        return tf.where(chosen, ours(tf.random.stateless_uniform((count,), next(seeds), -reach, reach)), 0.0)

    turn, lean = spread(math.radians(strength.rotation)), spread(math.radians(strength.shear))
    size, left = 1 + spread(strength.zoom), spread(1.0) < 0
    across, down = spread(strength.shift) * width, spread(strength.shift) * height
    gain, brighter = 1 + spread(strength.contrast), spread(strength.brightness)
    cast = tf.stack([spread(strength.channel_shift) for _ in range(3)], axis=1)
    numbers, forces = map(ours, randaugment.draw(count, strength.randaugment, strength.magnitude, next(seeds)))
    numbers = tf.where(chosen[:, None], numbers, randaugment.IDENTITY)

    one, zero, matrix = tf.ones_like(turn), tf.zeros_like(turn), randaugment.matrix
    cos, sin = size * tf.cos(turn), size * tf.sin(turn)
    place = matrix(tf.where(left, -1.0, 1.0) if strength.flip else one, zero, across, zero, one, down)
    place @= matrix(cos, -sin, zero, sin, cos, zero) @ matrix(one, tf.tan(lean), zero, zero, one, zero)
    place @= randaugment.geometry(numbers, forces, height, width)

    # Contrast goes about the mean before the warp, which hardly differs, so that the compiler can do all in one pass.
    mean = tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2, 3))
    offset = ((1 - gain) * mean + 255 * brighter)[:, None] + 255 * cast
    varied = randaugment.colours(_compiled(_render)(pixels, place, gain, offset), numbers, forces)
    return tf.ensure_shape(varied, pixels.shape)


def mix(
    pixels: tf.Tensor, truth: tf.Tensor, seed: tf.Tensor, strength: Augmentation, part: Part | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each photograph of a batch, and its label, with the one before it: MixUp, CutMix, or one of the two.

    MixUp (Zhang et al. 2018) blends the two, CutMix (Yun et al. 2019) pastes a rectangle of the other; the label's
    share is that of the pixels. Batches come shuffled, so that the photograph before is as good as any.

    Args:
        pixels: float32 [N, H, W, 3].
        truth: float32 [N, classes], rows that sum to one.
        seed: int64 [2]; may be the one given to ``augment``.
        part: where these are not the whole batch. The first of them is then mixed with the last.

    Returns:
        Pixels and truth of the same shapes.
    """
    import tensorflow as tf

    if not strength.mixes:
        return pixels, truth
    count, ours = _drawn_for(pixels, part)
    seeds = iter(tf.unstack(tf.random.split(tf.random.fold_in(seed, _MIX), 8)))

    def uniform() -> Any:
        return ours(tf.random.stateless_uniform((count,), next(seeds)))

    def beta(alpha: float) -> Any:  # A Beta variable is one Gamma variable's share of two.
        one, other = (tf.random.stateless_gamma((count,), next(seeds), alpha or 1.0) for _ in range(2))
        return ours(tf.math.divide_no_nan(one, one + other))

    blended, pasted, centre = beta(strength.mixup), beta(strength.cutmix), (uniform(), uniform())
    pastes = uniform() < (0.5 if strength.mixup and strength.cutmix else float(strength.cutmix > 0))
    chosen = uniform() < strength.probability
    half = tf.where(chosen & pastes, tf.sqrt(1 - pasted) / 2, 0.0)
    kept = tf.where(chosen & ~pastes, blended, 1.0)
    mixed: tuple[Any, Any] = _compiled(_blend)(pixels, truth, kept, centre, half)
    return mixed


def kernels(rule: ImageInput) -> tuple[ImageInput, ...]:
    """The ways a device may shrink a photograph, ``rule`` first: a photograph is read in all, and one drawn each time.

    Scalers differ in what they take the mean of, which cannot be imitated once a photograph is small. Of twenty
    photographs shrunk to a third by seventeen scalers of TensorFlow and Pillow and by halving, as graphics chips do,
    pixels differed from Pillow's antialiased bilinear ones by up to 10.7 of 255 in the mean; from the nearest of these
    four by 3.4 at most. Scalers that place centres differently shift by less than a pixel, as ``shift`` does.
    """
    ways = (("bilinear", True), ("bilinear", False), ("bicubic", True), ("nearest", True))
    variants = (rule.model_copy(update={"kernel": kernel, "antialias": antialias}) for kernel, antialias in ways)
    return tuple(dict.fromkeys((rule, *variants)))


def _drawn_for(pixels: Any, part: Part | None) -> tuple[Any, Callable[[Any], Any]]:
    """How many photographs to draw for, and what picks from the draws those of ``pixels``."""
    import tensorflow as tf

    if part is None:
        return tf.shape(pixels)[0], lambda drawn: drawn
    return part.of, lambda drawn: tf.gather(drawn, part.rows)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with all its arithmetic in one loop over the pixels; what is drawn at random stays outside."""
    import tensorflow as tf

    compiled: Callable[..., Any] = tf.function(function, jit_compile=True)
    return compiled


def _blend(pixels: Any, truth: Any, kept: Any, centre: Any, half: Any) -> Any:
    """``kept`` [N] of each photograph, plus the one before it, which alone shows in a box of sides 2 ``half`` [N]."""
    import tensorflow as tf

    def near(length: int, middle: Any) -> Any:
        places = (tf.range(length, dtype=tf.float32) + 0.5) / length
        return tf.abs(places[None] - middle[:, None]) < half[:, None]

    box = near(pixels.shape[1], centre[0])[:, :, None] & near(pixels.shape[2], centre[1])[:, None, :]
    share = tf.where(box, 0.0, kept[:, None, None])
    whole = tf.reduce_mean(share, axis=(1, 2))[:, None]
    return tuple(
        own * values + (1 - own) * tf.roll(values, 1, 0) for own, values in ((share[..., None], pixels), (whole, truth))
    )


def _render(pixels: Any, place: Any, gain: Any, offset: Any) -> Any:
    """Photographs seen through affine maps ([N, 3, 3], output to input, pixels from the centre), scaled and shifted.

    Bilinear between the four pixels around; beyond the edge, the edge. ``gain`` [N], ``offset`` [N, 3]. Compiled, it
    takes a quarter of the time of TensorFlow's ImageProjectiveTransformV3, which works out coordinates per channel.
    """
    import tensorflow as tf

    count, (height, width) = tf.shape(pixels)[0], pixels.shape[1:3]
    middle = ((width - 1) / 2, (height - 1) / 2)
    across = tf.range(width, dtype=tf.float32)[None, None] - middle[0]
    down = tf.range(height, dtype=tf.float32)[None, :, None] - middle[1]

    def look(row: int) -> Any:
        a, b, c = (place[:, row, column, None, None] for column in range(3))
        return tf.clip_by_value(a * across + b * down + c + middle[row], 0.0, 2 * middle[row])

    x, y = look(0), look(1)
    left, top = tf.floor(x), tf.floor(y)
    to_right, to_bottom = (x - left)[..., None], (y - top)[..., None]
    columns, rows = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    flat = tf.reshape(pixels, (-1, 3))
    first = (tf.range(count) * height * width)[:, None, None]

    def at(row: Any, column: Any) -> Any:
        place = first + tf.minimum(row, height - 1) * width + tf.minimum(column, width - 1)
        return tf.cast(tf.gather(flat, place), tf.float32)

    above = at(rows, columns) * (1 - to_right) + at(rows, columns + 1) * to_right
    below = at(rows + 1, columns) * (1 - to_right) + at(rows + 1, columns + 1) * to_right
    seen = above * (1 - to_bottom) + below * to_bottom
    return tf.clip_by_value(seen * gain[:, None, None, None] + offset[:, None, None], 0.0, 255.0)


def _read(name: str, kind: type, text: str) -> bool | float:
    if kind is bool:
        if text.lower() in ("", *_YES, *_NO):  # ``flip`` alone is ``flip=yes``.
            return text.lower() not in _NO
    else:
        with contextlib.suppress(ValueError):
            return int(text) if kind is int else float(text)
    wanted = {bool: "yes or no", int: "a whole number"}.get(kind, "a number")
    raise UserError(f"Augmentation: {name} is {text!r}; it takes {wanted}, as in {name}=VALUE.")
