"""Eight invented plants. Three are poisonous, and two of those have an edible double.

Their names are a drawing tool and a shape, so that nobody takes a drawing for advice about a real plant. Every colour
comes from one ``Palette`` for all of them: only shapes, and the blotches of one stem, tell the species apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from leafport.demo import shapes
from leafport.demo.palette import Generator, Palette, vary
from leafport.demo.shapes import Patches

Layers = list[Patches]  # Rear ones first; each casts a shadow on those before it.


@dataclass(frozen=True)
class Species:
    """A plant that can be drawn: ``grow`` returns its layers, standing on (0, 0) and about 1 high."""

    name: str
    poisonous: bool
    grow: Callable[[Generator, Palette], Layers]


def _umbel_plant(rng: Generator, colours: Palette, *, blotched: bool) -> Layers:
    """Feathery leaves on a stout stem, flowers in flat umbels. Only the stem's blotches tell the two apart."""
    width = rng.uniform(0.055, 0.075)
    trunk = shapes.curve(np.zeros(2), np.pi / 2 + rng.uniform(-0.12, 0.12), 0.78, rng.uniform(-0.25, 0.25), points=14)
    rear: Patches = []
    front: Patches = []
    side = rng.choice([-1.0, 1.0])
    for share in np.sort(rng.uniform(0.02, 0.55, rng.integers(3, 6))):
        at, angle = shapes.along(trunk, share)
        turn = angle - side * rng.uniform(0.75, 1.2)
        layer = rear if rng.random() < 0.7 else front
        layer.extend(_feather(rng, colours, at, turn, rng.uniform(0.42, 0.56) - 0.2 * share))
        side = -side
    middle = shapes.stem(trunk, width, colours.stem, tip=0.62)
    umbels: Patches = []
    flowering = rng.random() < 0.9
    tops = [(trunk[-1], shapes.heading(trunk, len(trunk) - 1), rng.uniform(0.17, 0.26))]
    for _ in range(rng.integers(0, 3)):
        at, angle = shapes.along(trunk, rng.uniform(0.55, 0.8))
        branch = shapes.curve(at, angle - side * rng.uniform(0.5, 0.8), rng.uniform(0.2, 0.34), side * 0.4)
        middle.extend(shapes.stem(branch, width * 0.55, colours.stem))
        tops.append((branch[-1], shapes.heading(branch, len(branch) - 1), rng.uniform(0.11, 0.17)))
        side = -side
    if blotched:
        middle.extend(_blotches(rng, colours, trunk, width))
    for at, angle, reach in tops:
        umbels.extend(_umbel(rng, colours, at, angle, reach, flowering))
    return [rear, [*middle, *front], umbels]


def _blotches(rng: Generator, colours: Palette, trunk: np.ndarray, width: float) -> Patches:
    drawn = []
    for share in np.linspace(0.03, 0.97, 18) + rng.uniform(-0.012, 0.012, 18):
        at, angle = shapes.along(trunk, float(share))
        here = width * (1 - 0.38 * float(share))
        spot = at + shapes.direction(angle + np.pi / 2) * rng.uniform(-0.22, 0.22) * here
        size, flatten = here * rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.9)
        drawn.append(shapes.disc(spot, size, vary(rng, colours.blotch), flatten=flatten, angle=angle))
    return drawn


def _feather(rng: Generator, colours: Palette, at: np.ndarray, angle: float, length: float) -> Patches:
    """A leaf of lobed leaflets in pairs along a stalk."""
    bend = rng.uniform(0.2, 0.8) * (-1 if np.cos(angle) > 0 else 1)
    stalk = shapes.curve(at, angle, length, bend, points=12)
    drawn = shapes.stem(stalk, 0.016, colours.stem)
    colour = vary(rng, colours.leaf)
    pairs = int(rng.integers(5, 7))
    edge = shapes.lobed_edge(0.2, 3, 0.62)
    for number in range(pairs):
        share = 0.2 + 0.76 * number / pairs
        here, direction = shapes.along(stalk, share)
        size = length * (0.38 - 0.22 * number / pairs) * rng.uniform(0.9, 1.1)
        for side in (1.0, -1.0):
            turn = direction + side * rng.uniform(0.9, 1.1)
            margin = np.concatenate([edge, edge[::-1] * [1.0, -1.0]])
            shade = 1 + 0.13 * float(np.cos(turn - shapes.LIGHT)) + rng.uniform(-0.05, 0.05)
            drawn.append(shapes.Patch(shapes.bent(margin, here, turn, size, -side * 0.25), shapes.tint(colour, shade)))
    drawn.extend(shapes.leaf(edge, stalk[-2], shapes.heading(stalk, 11), length * 0.2, colour))
    return drawn


def _umbel(rng: Generator, colours: Palette, at: np.ndarray, angle: float, reach: float, flowering: bool) -> Patches:
    drawn: Patches = []
    rays = int(rng.integers(8, 13))
    colour = colours.petal if flowering else shapes.tint(colours.stem, 1.05)
    tips = []
    for number in range(rays):
        turn = angle + (number / (rays - 1) - 0.5) * rng.uniform(1.9, 2.1)
        ray = shapes.curve(at, turn, reach * rng.uniform(0.85, 1.05), (angle - turn) * 0.35, points=5)
        drawn.extend(shapes.stem(ray, 0.011, colours.stem)[:2])
        tips.append(ray[-1])
    for tip in tips:
        for _ in range(8):
            away = shapes.direction(rng.uniform(0, 2 * np.pi)) * reach * rng.uniform(0.02, 0.19) * [1.0, 0.75]
            drawn.append(shapes.disc(tip + away, reach * rng.uniform(0.06, 0.085), vary(rng, colour, 0.12)))
        drawn.append(shapes.disc(tip, reach * 0.04, colours.heart))
    return drawn


def _spike_plant(rng: Generator, colours: Palette, *, serrate: bool) -> Layers:
    """Opposite leaves and a spike of small flowers. Only the teeth of the leaves tell the two apart."""
    trunk = shapes.curve(np.zeros(2), np.pi / 2 + rng.uniform(-0.15, 0.15), 1.0, rng.uniform(-0.35, 0.35), points=16)
    rear: Patches = []
    front: Patches = []
    pairs = int(rng.integers(3, 5))
    width, fullest = rng.uniform(0.23, 0.28), rng.uniform(0.36, 0.46)
    bare = 0.66 if rng.random() < 0.88 else 0.9
    for number in range(pairs):
        share = 0.06 + (bare - 0.06) * number / (pairs - 0.4)
        at, angle = shapes.along(trunk, share)
        length = (0.48 - 0.2 * number / pairs) * rng.uniform(0.9, 1.1)
        for side in (1.0, -1.0):
            if serrate:
                edge = shapes.serrate_edge(width, int(rng.integers(4, 6)), rng.uniform(0.45, 0.55), fullest=fullest)
            else:
                edge = shapes.entire_edge(width, fullest=fullest)
            turn = angle + side * rng.uniform(0.85, 1.25)
            reach, squeeze = length * rng.uniform(0.9, 1.1), rng.uniform(0.82, 1.0)
            colour, bend = vary(rng, colours.leaf), -side * rng.uniform(-0.2, 0.7)
            drawn = shapes.leaf(edge, at, turn, reach, colour, bend=bend, veins=3, squeeze=squeeze)
            (front if rng.random() < 0.5 else rear).extend(drawn)
    middle = shapes.stem(trunk, 0.034, colours.stem)
    florets: Patches = []
    if bare < 0.7:
        for whorl in range(8):
            share = 0.7 + 0.3 * whorl / 7
            at, angle = shapes.along(trunk, share)
            size = 0.062 * (1.2 - 0.085 * whorl) * rng.uniform(0.9, 1.1)
            for turn in (1.5, -1.5, 0.9, -0.9, 0.3, -0.3):
                lip = angle + turn + rng.uniform(-0.2, 0.2)
                shade = rng.uniform(0.82, 1.0) + 0.1 * float(np.cos(lip - shapes.LIGHT))
                tip = at + shapes.direction(lip) * size * 0.75
                florets.append(
                    shapes.disc(tip, size * 0.42, shapes.tint(colours.petal, shade), flatten=0.62, angle=lip)
                )
            florets.append(shapes.disc(at, size * 0.3, shapes.tint(colours.petal, 0.62)))
    return [rear, [*middle, *front], florets]


def _rosette_plant(rng: Generator, colours: Palette) -> Layers:
    """Lobed leaves in a rosette on the ground, daisies on bare stalks."""
    flatten = rng.uniform(0.5, 0.9)
    centre = np.array([0.0, 0.28])
    count = int(rng.integers(9, 14))
    leaves: Layers = [[], []]
    for number, angle in enumerate(rng.uniform(0, 6.28) + np.arange(count) * 2 * np.pi / count):
        length = rng.uniform(0.42, 0.55)
        colour = vary(rng, colours.leaf)
        edge = shapes.lobed_edge(rng.uniform(0.17, 0.22), int(rng.integers(4, 6)), rng.uniform(0.5, 0.68))
        turn = angle + rng.uniform(-0.15, 0.15)
        for patch in shapes.leaf(edge, np.zeros(2), turn, length, colour, bend=rng.uniform(-0.4, 0.4), veins=0):
            leaves[number % 2].append(shapes.Patch(patch.outline * [1.0, flatten] + centre, patch.colour))
    stalks: Patches = []
    if rng.random() < 0.92:
        for _ in range(rng.integers(1, 4)):
            turn = np.pi / 2 + rng.uniform(-0.7, 0.7)
            line = shapes.curve(centre, turn, rng.uniform(0.3, 0.62), rng.uniform(-0.4, 0.4))
            stalks.extend(shapes.stem(line, 0.022, colours.stem))
            stalks.extend(_daisy(rng, colours, line[-1]))
    return [*leaves, stalks]


def _daisy(rng: Generator, colours: Palette, at: np.ndarray) -> Patches:
    radius, count, flatten = rng.uniform(0.12, 0.17), int(rng.integers(11, 17)), rng.uniform(0.6, 1.0)
    turn = rng.uniform(0, 1)
    drawn = shapes.petals(
        at, radius, count, radius * 0.17, shapes.tint(colours.petal, 0.86), flatten=flatten, turn=turn
    )
    drawn += shapes.petals(at, radius * 0.93, count, radius * 0.15, colours.petal, flatten=flatten, turn=turn + 0.2)
    drawn.append(shapes.disc(at, radius * 0.34, shapes.tint(colours.heart, 0.75), flatten=flatten))
    drawn.append(shapes.disc(at + np.array([-0.1, 0.08]) * radius, radius * 0.24, colours.heart, flatten=flatten))
    return drawn


def _trefoil_plant(rng: Generator, colours: Palette) -> Layers:
    """Leaves of three heart-shaped leaflets, flowers in round heads."""
    layers: Layers = []
    count = int(rng.integers(6, 11))
    spots = rng.uniform([-0.45, 0.25], [0.45, 0.85], (count, 2))
    spots = spots[np.argsort(-spots[:, 1])]
    pale = rng.random() < 0.6
    for spot in spots:
        layer: Patches = []
        foot = np.array([spot[0] * 0.25, 0.0])
        layer.extend(shapes.stem(_to(foot, spot, rng.uniform(-0.1, 0.1)), 0.018, colours.stem))
        size, turn, flatten = rng.uniform(0.15, 0.22), rng.uniform(0, 2.1), rng.uniform(0.65, 1.0)
        colour = vary(rng, colours.leaf, 0.14)
        for angle in turn + np.arange(3) * 2 * np.pi / 3:
            edge = shapes.obcordate_edge(0.5)
            drawn = shapes.leaf(edge, np.zeros(2), angle, size, colour, veins=0)
            if pale:
                band = np.array([[0.35, 0.0], [0.5, 0.36], [0.62, 0.36], [0.5, 0.0], [0.62, -0.36], [0.5, -0.36]])
                mark = shapes.bent(band, np.zeros(2), angle, size, 0.0)
                drawn.append(shapes.Patch(mark, shapes.tint(colour, 1.1, (0.9, 0.95, 0.8), 0.35)))
            layer.extend(shapes.Patch(patch.outline * [1.0, flatten] + spot, patch.colour) for patch in drawn)
        layers.append(layer)
    layers = [[patch for layer in layers[start::3] for patch in layer] for start in range(3)]
    heads: Patches = []
    if rng.random() < 0.88:
        for _ in range(rng.integers(1, 4)):
            top = rng.uniform([-0.4, 0.55], [0.4, 1.0])
            heads.extend(shapes.stem(_to(np.array([top[0] * 0.2, 0.0]), top, 0.08), 0.02, colours.stem))
            heads.extend(_globe(rng, colours, top, rng.uniform(0.085, 0.12)))
    return [*layers, heads]


def _globe(rng: Generator, colours: Palette, at: np.ndarray, radius: float) -> Patches:
    drawn = [shapes.disc(at, radius, shapes.tint(colours.petal, 0.6))]
    for ring, count in ((0.86, 15), (0.6, 11), (0.32, 6)):
        for angle in rng.uniform(0, 1) + np.arange(count) * 2 * np.pi / count:
            away = shapes.direction(angle)
            lit = 0.88 + 0.14 * float(np.cos(angle - shapes.LIGHT)) + (0.85 - ring) * 0.12
            drawn.append(
                shapes.disc(
                    at + away * radius * ring, radius * 0.26, shapes.tint(colours.petal, lit), flatten=0.55, angle=angle
                )
            )
    return drawn


def _bell_plant(rng: Generator, colours: Palette) -> Layers:
    """Two or three broad leaves with parallel veins, and bells hanging from one side of an arching stalk."""
    side = rng.choice([-1.0, 1.0])
    rear: Patches = []
    for number in range(rng.integers(2, 4)):
        turn = np.pi / 2 + side * (0.5 - 0.5 * number) + rng.uniform(-0.15, 0.15)
        edge = shapes.entire_edge(rng.uniform(0.17, 0.23), fullest=0.52)
        bend = (0.35 if np.cos(turn) < 0 else -0.35) * rng.uniform(0.2, 1.6)
        foot, length, squeeze = np.array([rng.uniform(-0.03, 0.03), 0.0]), rng.uniform(0.58, 0.85), rng.uniform(0.75, 1)
        colour = vary(rng, colours.leaf)
        rear.extend(shapes.leaf(edge, foot, turn, length, colour, bend=bend, veins=3, parallel=True, squeeze=squeeze))
    arch = shapes.curve(
        np.zeros(2), np.pi / 2 + side * 0.12, rng.uniform(1.05, 1.25), -side * rng.uniform(0.8, 1.6), points=16
    )
    front = shapes.stem(arch, 0.026, colours.stem)
    flowers: Patches = []
    count = int(rng.integers(4, 8))
    for number in range(count):
        at, angle = shapes.along(arch, 0.4 + 0.58 * number / (count - 1))
        down = -np.pi / 2 + side * rng.uniform(0.0, 0.35)
        hook = shapes.curve(at, angle - side * 0.9, rng.uniform(0.05, 0.08), -side * 1.1, points=5)
        front.extend(shapes.stem(hook, 0.01, colours.stem))
        size = rng.uniform(0.14, 0.18) * (1.15 - 0.4 * number / count)
        if rng.random() < 0.93:
            flowers.extend(shapes.bell(hook[-1], down, size, vary(rng, colours.petal)))
        else:
            flowers.extend(shapes.ball(hook[-1], size * 0.35, shapes.tint(colours.petal, 0.9)))
    return [rear, front, flowers]


def _berry_plant(rng: Generator, colours: Palette) -> Layers:
    """Hand-shaped leaves, one at a time along a branch, and hanging bunches of berries."""
    trunk = shapes.curve(np.zeros(2), np.pi / 2 + rng.uniform(-0.25, 0.25), 0.95, rng.uniform(-0.7, 0.7), points=14)
    bark = shapes.tint(colours.stem, 0.7, (0.42, 0.30, 0.2), 0.6)
    middle = shapes.stem(trunk, 0.035, bark)
    leaves: Layers = [[], []]
    fruits: Patches = []
    side = rng.choice([-1.0, 1.0])
    count = int(rng.integers(4, 7))
    lobes = 5 if rng.random() < 0.75 else 7
    for number in range(count):
        at, angle = shapes.along(trunk, 0.15 + 0.83 * number / (count - 1))
        turn = angle - side * rng.uniform(0.6, 1.1) if number < count - 1 else angle
        stalk = shapes.curve(at, turn, rng.uniform(0.08, 0.16), side * 0.3, points=5)
        edge = shapes.palmate_edge(lobes, rng.uniform(0.38, 0.5), rng.uniform(0.0, 0.06))
        layer = leaves[number % 2]
        layer.extend(shapes.stem(stalk, 0.014, colours.stem))
        aim, length = turn + rng.uniform(-0.4, 0.4), rng.uniform(0.3, 0.42) * (1.1 - 0.3 * number / count)
        colour, bend = vary(rng, colours.leaf), rng.uniform(-0.3, 0.3)
        layer.extend(shapes.leaf(edge, stalk[-1], aim, length, colour, bend=bend, veins=2))
        if rng.random() < 0.5:
            fruits.extend(_bunch(rng, colours, at, side))
        side = -side
    return [leaves[0], [*middle, *leaves[1]], fruits]


def _bunch(rng: Generator, colours: Palette, at: np.ndarray, side: float) -> Patches:
    line = shapes.curve(at, side * 0.5 + (np.pi if side < 0 else 0.0), rng.uniform(0.12, 0.2), -side * 1.3, points=6)
    drawn = shapes.stem(line, 0.01, colours.stem)
    for _ in range(rng.integers(4, 9)):
        spot = line[-1] + rng.uniform([-0.07, -0.12], [0.07, 0.03])
        drawn.extend(shapes.stem(_to(line[-2], spot, 0.0), 0.007, colours.stem)[:1])
        drawn.extend(shapes.ball(spot, rng.uniform(0.028, 0.04), vary(rng, colours.fruit)))
    return drawn


def _to(start: np.ndarray, end: np.ndarray, bulge: float) -> np.ndarray:
    """A line from one point to another, bulging sideways: float [8, 2]."""
    share = np.linspace(0, 1, 8)[:, None]
    step = end - start
    line: np.ndarray = start + step * share + np.array([-step[1], step[0]]) * bulge * np.sin(np.pi * share)
    return line


SPECIES = (
    Species("Canvas_Berry", False, _berry_plant),
    Species("Chalk_Bell", True, _bell_plant),
    Species("Crayon_Umbel", False, lambda rng, colours: _umbel_plant(rng, colours, blotched=False)),
    Species("Gouache_Rosette", False, _rosette_plant),
    Species("Inkblot_Umbel", True, lambda rng, colours: _umbel_plant(rng, colours, blotched=True)),
    Species("Origami_Trefoil", False, _trefoil_plant),
    Species("Pencil_Spike", False, lambda rng, colours: _spike_plant(rng, colours, serrate=False)),
    Species("Sawtooth_Spike", True, lambda rng, colours: _spike_plant(rng, colours, serrate=True)),
)
