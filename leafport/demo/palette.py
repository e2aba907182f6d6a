"""The colours of the drawn plants: one distribution for every species, so that colour gives none of them away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leafport.demo import shapes
from leafport.demo.shapes import Colour

Generator = np.random.Generator

_PETALS: tuple[Colour, ...] = (
    (0.95, 0.94, 0.90),
    (0.97, 0.84, 0.30),
    (0.90, 0.56, 0.72),
    (0.66, 0.52, 0.86),
    (0.45, 0.56, 0.90),
    (0.93, 0.48, 0.34),
)
_FRUITS: tuple[Colour, ...] = ((0.82, 0.12, 0.14), (0.20, 0.16, 0.36), (0.93, 0.55, 0.12), (0.92, 0.90, 0.84))


@dataclass(frozen=True)
class Palette:
    """The colours of one plant, drawn without regard to its species."""

    leaf: Colour
    stem: Colour
    petal: Colour
    heart: Colour
    fruit: Colour
    blotch: Colour


def palette(rng: Generator) -> Palette:
    """Draw a plant's colours."""
    fresh, old = np.array([0.45, 0.62, 0.22]), np.array([0.21, 0.40, 0.24])
    share, blue = rng.uniform(0, 1), rng.uniform(-0.06, 0.12)
    green = (fresh * share + old * (1 - share) + [0, 0, blue]) * rng.uniform(0.85, 1.1)
    if rng.random() < 0.12:  # An autumn leaf.
        green = green * 0.55 + np.array([0.62, 0.36, 0.14]) * 0.45
    leaf: Colour = (float(green[0]), float(green[1]), float(green[2]))
    petal = shapes.tint(_PETALS[rng.integers(len(_PETALS))], rng.uniform(0.88, 1.04))
    return Palette(
        leaf=leaf,
        stem=shapes.tint(leaf, 1.08, (0.66, 0.70, 0.40), rng.uniform(0.1, 0.5)),
        petal=petal,
        heart=shapes.tint((0.93, 0.72, 0.18), rng.uniform(0.7, 1.05)),
        fruit=_FRUITS[rng.integers(len(_FRUITS))],
        blotch=shapes.tint((0.34, 0.10, 0.22), rng.uniform(0.8, 1.2)),
    )


def vary(rng: Generator, colour: Colour, amount: float = 0.1) -> Colour:
    """A colour a little lighter or darker, by up to ``amount``."""
    return shapes.tint(colour, rng.uniform(1 - amount, 1 + amount))
