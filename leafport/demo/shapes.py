"""The parts plants are drawn from: leaves, stems and flowers, each a list of filled polygons.

Lengths are in plant heights (a plant stands on (0, 0) and reaches to about (0, 1), y upwards), angles in radians,
colours in linear steps 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
Patches = list["Patch"]

LIGHT = 2.2  # Where the light comes from, as an angle: the upper left.
_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 14, endpoint=False)) for f in (np.cos, np.sin)], axis=1)


@dataclass(frozen=True)
class Patch:
    """A polygon (float [n, 2]) of one colour."""

    outline: np.ndarray
    colour: Colour


def tint(colour: Colour, factor: float, towards: Colour | None = None, share: float = 0.0) -> Colour:
    """A colour made lighter or darker by ``factor``, then mixed with a ``share`` of another."""
    red, green, blue = (value * factor for value in colour)
    if towards is None:
        return red, green, blue
    rest = 1 - share
    return red * rest + towards[0] * share, green * rest + towards[1] * share, blue * rest + towards[2] * share


def direction(angle: float) -> np.ndarray:
    """The unit vector at ``angle``: float [2]."""
    return np.array([np.cos(angle), np.sin(angle)])


def bent(leaf: np.ndarray, at: np.ndarray, angle: float, length: float, bend: float) -> np.ndarray:
    """Lay points of a leaf's own frame (float [n, 2]: along the midrib 0..1, across it) on an arc in the plane.

    The arc starts ``at`` in the direction ``angle``, is ``length`` long and turns by ``bend`` on its way.
    """
    along, across = leaf[:, 0], leaf[:, 1]
    bend = bend if abs(bend) > 1e-3 else 1e-3
    heading = angle + bend * along
    sine, cosine = np.sin(heading), np.cos(heading)
    placed = np.empty_like(leaf)
    placed[:, 0] = at[0] + length * ((sine - math.sin(angle)) / bend - across * sine)
    placed[:, 1] = at[1] + length * ((math.cos(angle) - cosine) / bend + across * cosine)
    return placed


def leaf(
    edge: np.ndarray,
    at: np.ndarray,
    angle: float,
    length: float,
    colour: Colour,
    *,
    bend: float = 0.0,
    veins: int = 0,
    parallel: bool = False,
    squeeze: float = 1.0,
) -> Patches:
    """A leaf whose margin is ``edge`` (float [n, 2], one side from base to tip in the leaf's own frame), mirrored.

    The half turned to the light is lighter. ``veins`` pairs run from the midrib to the margin, or along it when
    ``parallel``; ``squeeze`` < 1 narrows a leaf seen from its side.
    """
    lit = float(np.cos(angle + bend / 2 + np.pi / 2 - LIGHT))
    pale: Colour = (0.86, 0.93, 0.62)
    drawn = []
    for side in (1.0, -1.0):
        half = edge * [1.0, side * squeeze]
        shade = 1 + 0.17 * lit * side
        inner = half * [0.93, 0.55] + [0.03, 0.0]
        drawn.append(Patch(bent(half, at, angle, length, bend), tint(colour, shade)))
        drawn.append(Patch(bent(inner, at, angle, length, bend), tint(colour, shade * 1.07)))
    widest = float(edge[:, 1].max()) * squeeze
    vein = tint(colour, 1.1, pale, 0.3)
    for number in range(veins):
        start = (number + 0.6) / (veins + 0.8)
        for side in (1.0, -1.0):
            if parallel:
                share = side * (number + 1) / (veins + 1)
                middle = np.array([[0.03, 0.0], [0.4, share * widest], [0.97, 0.0], [0.4, share * widest + 0.012]])
                line = middle
            else:
                reach = float(np.interp(min(start + 0.16, 1), edge[:, 0], edge[:, 1])) * squeeze * 0.8
                line = np.array([[start, 0.0], [start + 0.16, side * reach], [start + 0.025, 0.0]])
            drawn.append(Patch(bent(line, at, angle, length, bend), vein))
    midrib = np.array([[0.0, 0.014], [0.5, 0.009], [0.97, 0.0], [0.5, -0.009], [0.0, -0.014]])
    drawn.append(Patch(bent(midrib, at, angle, length, bend), vein))
    return drawn


def entire_edge(width: float, *, fullest: float = 0.45, points: int = 14) -> np.ndarray:
    """A smooth margin, from base to tip, widest (``width``) at about ``fullest``."""
    along = np.linspace(0, 1, points)
    power = np.log(0.5) / np.log(fullest)
    return np.stack([along, width * np.sin(np.pi * along**power) ** 0.9], axis=1)


def serrate_edge(width: float, teeth: int, depth: float, *, fullest: float = 0.45) -> np.ndarray:
    """A margin with ``teeth`` pointing forward, each ``depth`` of the width there."""
    smooth = entire_edge(width, fullest=fullest, points=40)
    corners = [[0.0, 0.0]]
    for tooth in range(teeth):
        start, tip = (tooth + 0.25) / (teeth + 0.4), (tooth + 1.25) / (teeth + 0.4)
        reach = float(np.interp(tip - 0.6 / teeth, smooth[:, 0], smooth[:, 1]))
        notch = float(np.interp(start, smooth[:, 0], smooth[:, 1]))
        corners += [[start, notch * (1 - depth)], [min(tip, 0.99), reach * (1 + depth * 0.7)]]
    return np.array([*corners, [1.0, 0.0]])


def lobed_edge(width: float, lobes: int, depth: float) -> np.ndarray:
    """A margin cut into ``lobes`` that point outwards, down to ``depth`` of the width."""
    smooth = entire_edge(width, fullest=0.62, points=40)
    corners = [[0.0, 0.012]]
    for lobe in range(lobes):
        start, tip = (lobe + 0.2) / (lobes + 0.5), (lobe + 0.62) / (lobes + 0.5)
        reach = float(np.interp(tip, smooth[:, 0], smooth[:, 1])) + 0.02
        corners += [[start, reach * (1 - depth)], [tip - 0.03, reach], [tip + 0.05, reach * 0.8]]
    return np.array([*corners, [0.93, width * 0.3], [1.0, 0.0]])


def obcordate_edge(width: float) -> np.ndarray:
    """One side of a leaflet that is heart-shaped, the notch at its tip."""
    return np.array(
        [[0, 0], [0.2, 0.3], [0.45, 0.72], [0.7, 0.98], [0.88, 0.95], [1.0, 0.6], [1.0, 0.3], [0.88, 0]]
    ) * [
        1.0,
        width,
    ]


def palmate_edge(lobes: int, depth: float, teeth: float) -> np.ndarray:
    """One side of a leaf of ``lobes`` pointed fingers (3, 5 or 7), cut in to ``depth`` of their length."""
    corners = [[0.0, 0.0]]
    half = lobes // 2
    step = 2.25 / max(half, 1)
    for lobe in range(half, -1, -1):  # The lowest finger first, the middle one last.
        turn, reach = lobe * step * 0.85, 0.66 - 0.13 * lobe * 2 / max(half, 1)
        valley = turn + step * 0.42
        if lobe < half or lobes > 3:
            corners.append(_polar(valley, reach * (1 - depth)))
        corners.append(_polar(turn + step * 0.2, reach * (0.78 - teeth)))
        corners.append(_polar(turn + step * 0.13, reach * 0.86))
        corners.append(_polar(turn, reach))
        if lobe:
            corners.append(_polar(turn - step * 0.13, reach * 0.86))
            corners.append(_polar(turn - step * 0.2, reach * (0.78 - teeth)))
    edge = np.array(corners)
    edge[:, 1] = np.maximum(edge[:, 1], 0.0)
    return edge


def _polar(turn: float, radius: float) -> list[float]:
    return [0.34 + radius * float(np.cos(turn)), radius * float(np.sin(turn))]


def curve(at: np.ndarray, angle: float, length: float, bend: float, points: int = 10) -> np.ndarray:
    """Points along an arc: float [points, 2]."""
    along = np.linspace(0, 1, points)
    return bent(np.stack([along, np.zeros(points)], axis=1), at, angle, length, bend)


def heading(line: np.ndarray, index: int) -> float:
    """The direction a line of points takes at one of them."""
    before, after = line[max(index - 1, 0)], line[min(index + 1, len(line) - 1)]
    return float(np.arctan2(after[1] - before[1], after[0] - before[0]))


def along(line: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """Where a line is after a ``share`` of its points, and its direction there."""
    position = share * (len(line) - 1)
    index = min(int(position), len(line) - 2)
    rest = position - index
    step = line[index + 1] - line[index]
    return line[index] + step * rest, float(np.arctan2(step[1], step[0]))


def stem(line: np.ndarray, width: float, colour: Colour, *, tip: float = 0.5) -> Patches:
    """A round stem along ``line`` (float [n, 2]), ``width`` at its base and ``tip`` times that at its end."""
    step = np.gradient(line, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)[:, None]
    half = (width / 2 * np.linspace(1, tip, len(line)))[:, None]
    towards = 1.0 if float(np.cos(LIGHT - heading(line, len(line) // 2) - np.pi / 2)) > 0 else -1.0
    drawn = [Patch(_ribbon(line - normal * half, line + normal * half), tint(colour, 0.8))]
    drawn.append(Patch(_ribbon(line - normal * half * 0.3 * towards, line + normal * half * towards), colour))
    drawn.append(
        Patch(_ribbon(line + normal * half * 0.3 * towards, line + normal * half * 0.7 * towards), tint(colour, 1.18))
    )
    return drawn


def _ribbon(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right[::-1]])


def disc(at: np.ndarray, radius: float, colour: Colour, *, flatten: float = 1.0, angle: float = 0.0) -> Patch:
    """An ellipse, ``flatten`` times as high as wide before it is turned by ``angle``."""
    cosine, sine, high = radius * math.cos(angle), radius * math.sin(angle), flatten
    return Patch(_CIRCLE @ np.array([[cosine, sine], [-sine * high, cosine * high]]) + at, colour)


def ball(at: np.ndarray, radius: float, colour: Colour) -> Patches:
    """A shiny round fruit."""
    return [
        disc(at, radius, tint(colour, 0.7)),
        disc(at + direction(LIGHT) * radius * 0.15, radius * 0.8, colour),
        disc(at + direction(LIGHT) * radius * 0.42, radius * 0.26, tint(colour, 1.0, (1, 1, 1), 0.7)),
    ]


def petals(
    at: np.ndarray, radius: float, count: int, width: float, colour: Colour, *, flatten: float, turn: float
) -> Patches:
    """A ring of ``count`` petals around a centre, seen at a slant (``flatten`` < 1)."""
    drawn = []
    shape = np.array([[0.12, 0.0], [0.5, 0.75], [0.82, 1.0], [1.0, 0.45], [1.0, -0.45], [0.82, -1.0], [0.5, -0.75]])
    for angle in turn + np.arange(count) * 2 * np.pi / count:
        cosine, sine = np.cos(angle), np.sin(angle)
        placed = (shape * [radius, width]) @ np.array([[cosine, sine], [-sine, cosine]]) * [1.0, flatten] + at
        drawn.append(Patch(placed, tint(colour, 0.9 + 0.12 * float(np.cos(angle - LIGHT)))))
    return drawn


def bell(at: np.ndarray, angle: float, size: float, colour: Colour) -> Patches:
    """A flower hanging open in the direction ``angle``, its mouth cut into points."""
    side = np.array([[0.0, 0.1], [0.12, 0.3], [0.45, 0.37], [0.75, 0.42], [1.0, 0.58]])
    mouth = np.array([[0.86, 0.3], [1.02, 0.17], [0.88, 0.0], [1.02, -0.17], [0.86, -0.3]])
    whole = np.concatenate([side, mouth, side[::-1] * [1.0, -1.0]])
    lit = np.concatenate([side * [1.0, 0.9], side[::-1] * [0.95, 0.2]])
    flip = 1.0 if np.cos(angle + np.pi / 2 - LIGHT) > 0 else -1.0
    return [
        Patch(bent(np.concatenate([mouth * [0.95, 1.6], [[0.7, 0.0]]]), at, angle, size, 0.0), tint(colour, 0.55)),
        Patch(bent(whole, at, angle, size, 0.0), tint(colour, 0.88)),
        Patch(bent(lit * [1.0, flip], at, angle, size, 0.0), tint(colour, 1.08)),
    ]


def bounds(layers: Iterable[Patches]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest x and y of every point: two float [2]."""
    points = np.concatenate([patch.outline for layer in layers for patch in layer])
    return points.min(axis=0), points.max(axis=0)
