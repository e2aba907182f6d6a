"""What an augmentation does to a photograph, to be looked at before hours are spent on training with it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from leafport import images
from leafport.contract import ImageInput
from leafport.training.data.augment import NONE, Augmentation, augment, kernels, mix
from leafport.training.data.contact_sheet import Row, Tile

EVERYTHING = Augmentation.parse("strong,randaugment=2,mixup=0.4,cutmix=1,kernels")
"""Each augmentation there is, strong enough to be seen."""
_SETTINGS = ("magnitude", "probability")


def rows(
    photograph: Path,
    rule: ImageInput,
    strength: Augmentation = EVERYTHING,
    *,
    other: Path | None = None,
    draws: int = 6,
    seed: int = 0,
) -> list[Row]:
    """The photograph as ``rule`` reads it, a row for each augmentation that is on, and one of all together.

    Args:
        other: what it is mixed with; itself upside down if None.

    Raises:
        ImageError: a photograph cannot be used.
    """
    image = images.open_rgb(photograph)
    ways = kernels(rule)
    variants = np.stack([images.fit(image, way) for way in ways])
    second = images.read(other, rule) if other else variants[0, ::-1, ::-1]
    mixes = bool(strength.mixup or strength.cutmix)
    shown = [Tile(variants[0], "the photograph"), *([Tile(second, "what it is mixed with")] if mixes else [])]
    found = [Row(shown, photograph.name, f"as the model reads it, {rule.width} x {rule.height} pixels")]
    for number, option in enumerate(fields(strength)):
        value = getattr(strength, option.name)
        if option.name in _SETTINGS or value == getattr(NONE, option.name):
            continue
        title = option.name if value is True else f"{option.name} = {value:g}"
        if option.name == "kernels":
            tiles = [
                Tile(pixels, f"{way.kernel}{'' if way.antialias else ', not antialiased'}")
                for way, pixels in zip(ways, variants, strict=True)
            ]
        else:
            alone = replace(NONE, magnitude=strength.magnitude, **{option.name: value})
            tiles = _vary(np.tile(variants[:1], (draws, 1, 1, 1)), second, alone, (seed, number))
        detail = f" (magnitude = {strength.magnitude:g})" if option.name == "randaugment" else ""
        found.append(Row(tiles, title, option.metadata["help"] + detail))
    drawn = np.random.default_rng(seed).integers(0, len(ways) if strength.kernels else 1, draws)
    share = "" if strength.probability == 1 else f"; {strength.probability:.0%} of the photographs"
    together = _vary(variants[drawn], second, strength, (seed, len(found)))
    found.append(Row(together, "all together", f"as training would see it{share}"))
    return found


def _vary(pixels: np.ndarray, second: np.ndarray, strength: Augmentation, seed: tuple[int, int]) -> list[Tile]:
    """Each photograph varied, and mixed with a second one that comes before it in the batch and is varied too."""
    pairs = np.stack([np.broadcast_to(second, pixels.shape), pixels], axis=1).reshape(-1, *pixels.shape[1:])
    truth = np.tile(np.eye(2, dtype=np.float32), (len(pixels), 1))
    varied, shares = mix(augment(pairs, np.array(seed), strength), truth, np.array(seed), strength)
    mixes = strength.mixup or strength.cutmix
    return [
        Tile(np.rint(photo).astype(np.uint8), f"{share:.0%} of its label" if mixes else "")
        for photo, share in zip(varied.numpy()[1::2], shares[1::2, 1] if mixes else truth[1::2, 1], strict=True)
    ]
