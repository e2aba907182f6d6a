"""A photograph of a plant: where it stands, how the light falls, and what the camera does to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from leafport.demo import shapes
from leafport.demo.palette import Generator, palette
from leafport.demo.shapes import Patches
from leafport.demo.species import Species

_SUPERSAMPLE = 2  # Polygons have hard edges; they are drawn this much larger and averaged down.
_SHAPES = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0), (1.0, 0.667), (0.667, 1.0), (0.5625, 1.0))


@dataclass(frozen=True)
class Photograph:
    """Pixels as the scene shows them (upright), and how the camera stores them."""

    image: Image.Image
    jpeg_quality: int
    orientation: int  # EXIF's: 1 upright, 3 upside down, 6 and 8 on a side.


def photograph(species: Species, rng: Generator, size: int) -> Photograph:
    """Photograph one plant; the longer side is about ``size`` pixels."""
    wide, high = _SHAPES[rng.choice(len(_SHAPES), p=(0.16, 0.2, 0.28, 0.1, 0.18, 0.08))]
    longer = size * rng.uniform(0.85, 1.15)
    frame = (max(16, round(longer * wide)), max(16, round(longer * high)))
    picture = _background(rng, frame)
    if rng.random() < 0.2:  # Another of its kind, behind it and out of focus.
        _stand(picture, species, rng, share=rng.uniform(0.45, 0.65), blur=rng.uniform(1.5, 3.5), dim=0.8)
    _stand(picture, species, rng, share=rng.uniform(0.92, 1.12), blur=0.0, dim=1.0)
    if rng.random() < 0.33:
        _occlude(picture, rng)
    picture = _camera(_light(picture, rng), rng)
    orientation = int(rng.choice([1, 6, 8, 3], p=(0.72, 0.12, 0.09, 0.07)))
    return Photograph(picture, int(rng.integers(30, 96)), orientation)


def _stand(picture: Image.Image, species: Species, rng: Generator, *, share: float, blur: float, dim: float) -> None:
    """Draw one plant into the picture, its larger side ``share`` of the frame's."""
    layers = species.grow(rng, palette(rng))
    lean, flip = rng.normal(0, 0.22), rng.choice([-1.0, 1.0])
    slant = np.array([[1.0, rng.uniform(-0.12, 0.12)], [0.0, rng.uniform(0.84, 1.0)]])
    turn = np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
    pose = np.diag([flip, 1.0]) @ slant @ turn
    posed = [[shapes.Patch(patch.outline @ pose, patch.colour) for patch in layer] for layer in layers if layer]
    low, high = shapes.bounds(posed)
    frame = np.array(picture.size)
    scale = share * float(np.min(frame / (high - low)))
    room = np.maximum(frame - (high - low) * scale, 0)
    corner = frame / 2 + rng.uniform(-0.5, 0.5, 2) * (room + 0.06 * frame)
    middle = (low + high) / 2
    shadow = (flip * rng.uniform(0.01, 0.03), rng.uniform(0.015, 0.04))  # A mirrored plant is lit from the right.
    for layer in posed:
        drawn = _rasterise(layer, picture.size, middle, corner, scale, dim)
        if blur:
            drawn = drawn.filter(ImageFilter.GaussianBlur(blur))
        else:
            _cast(picture, drawn.getchannel("A"), [round(s * min(picture.size)) for s in shadow])
        picture.paste(drawn, (0, 0), drawn)


def _rasterise(
    layer: Patches, size: tuple[int, int], middle: np.ndarray, at: np.ndarray, scale: float, dim: float
) -> Image.Image:
    """Polygons as an RGBA picture with smooth edges; ``middle`` of the plant comes to lie ``at`` a place, in pixels."""
    large = (size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE)
    drawn = Image.new("RGBA", large)
    pen = ImageDraw.Draw(drawn)
    zoom = np.array([scale, -scale]) * _SUPERSAMPLE
    for patch in layer:
        points = (patch.outline - middle) * zoom + at * _SUPERSAMPLE
        red, green, blue = (min(255, int(255 * value * dim)) for value in patch.colour)
        pen.polygon(points.ravel().tolist(), fill=(red, green, blue, 255))
    return drawn.reduce(_SUPERSAMPLE)


def _cast(picture: Image.Image, alpha: Image.Image, offset: list[int]) -> None:
    """Darken what lies under a layer, ``offset`` pixels to the right and down."""
    moved = Image.new("L", alpha.size)
    moved.paste(alpha.point([value * 0.45 for value in range(256)]), (offset[0], offset[1]))
    picture.paste((12, 16, 10), (0, 0), moved.filter(ImageFilter.BoxBlur(max(1, offset[1]))))


def _noise(rng: Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise about 0, deviation about 1, roughly ``cells`` bumps wide: float32 [height, width]."""
    rows = max(2, round(cells * size[1] / size[0]))
    coarse = Image.fromarray(rng.standard_normal((rows, max(2, cells)), dtype=np.float32))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))


def _textured(
    rng: Generator, size: tuple[int, int], colour: np.ndarray, octaves: tuple[tuple[int, float], ...]
) -> Image.Image:
    """A colour (0..1) mottled by noise of several scales: (bumps across, strength) each."""
    field = sum(_noise(rng, size, cells) * strength for cells, strength in octaves)
    pixels = colour * (1 + np.asarray(field))[..., None]
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def _background(rng: Generator, size: tuple[int, int]) -> Image.Image:
    kind = _GROUNDS[rng.choice(len(_GROUNDS), p=(0.2, 0.22, 0.14, 0.26, 0.1, 0.08))]
    picture = kind(rng, size)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2.5)))
    return picture


def _soil(rng: Generator, size: tuple[int, int]) -> Image.Image:
    brown = np.array([0.36, 0.27, 0.19]) * rng.uniform(0.6, 1.25) + rng.uniform(-0.03, 0.03, 3)
    picture = _textured(rng, size, brown, ((5, 0.15), (24, 0.2), (size[0] // 2, 0.22)))
    return _scatter(picture, rng, int(rng.integers(10, 40)), (0.004, 0.02), brown * 1.3)


def _gravel(rng: Generator, size: tuple[int, int]) -> Image.Image:
    grey = np.array([0.55, 0.53, 0.50]) * rng.uniform(0.65, 1.2)
    picture = _textured(rng, size, grey * 0.6, ((6, 0.1), (size[0] // 2, 0.15)))
    return _scatter(picture, rng, 190, (0.015, 0.045), grey)


def _scatter(
    picture: Image.Image, rng: Generator, count: int, radii: tuple[float, float], colour: np.ndarray
) -> Image.Image:
    """Stones, each with a lit side."""
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    for _ in range(count):
        radius = rng.uniform(*radii) * max(width, height)
        at = rng.uniform([0, 0], [width, height])
        angle, flatten, shade = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.25)
        for size, light, shift in ((1.0, 0.6, 0.0), (0.86, 1.0, -0.15), (0.5, 1.13, -0.32)):
            stone = shapes.disc(at + radius * shift, radius * size, (0, 0, 0), flatten=flatten, angle=angle)
            fill = tuple(int(255 * min(1.0, float(value) * shade * light)) for value in colour)
            pen.polygon(stone.outline.ravel().tolist(), fill=fill)
    return picture


def _grass(rng: Generator, size: tuple[int, int]) -> Image.Image:
    green = np.array([0.27, 0.42, 0.16]) * rng.uniform(0.6, 1.2) + rng.uniform(-0.04, 0.06, 3)
    picture = _textured(rng, size, green * 0.6, ((5, 0.2), (30, 0.2)))
    return _blades(picture, rng, 150, green, (0.006, 0.018))


def _blades(
    picture: Image.Image, rng: Generator, count: int, colour: np.ndarray, widths: tuple[float, float]
) -> Image.Image:
    """Blades of grass that bend."""
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    edge = np.array([[0.0, 0.5], [0.4, 0.45], [0.75, 0.25], [1.0, 0.0], [0.75, -0.25], [0.4, -0.45], [0.0, -0.5]])
    for _ in range(count):
        at = rng.uniform([0, height * 0.15], [width, height * 1.2])
        length = rng.uniform(0.2, 0.5) * height
        across = rng.uniform(*widths) * max(width, height) / length
        blade = shapes.bent(edge * [1.0, across], at, -np.pi / 2 + rng.normal(0, 0.4), length, rng.normal(0, 0.7))
        shade = rng.uniform(0.6, 1.5)
        pen.polygon(blade.ravel().tolist(), fill=tuple(int(255 * min(1.0, float(value) * shade)) for value in colour))
    return picture


def _bokeh(rng: Generator, size: tuple[int, int]) -> Image.Image:
    """A garden far out of focus: a gradient with discs of light."""
    tones = np.array(
        [[0.25, 0.38, 0.18], [0.55, 0.62, 0.40], [0.62, 0.72, 0.80], [0.40, 0.33, 0.25], [0.75, 0.68, 0.5]]
    )
    corners = tones[rng.choice(len(tones), 4)].reshape(2, 2, 3) * rng.uniform(0.6, 1.15)
    picture = Image.fromarray((corners.clip(0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    small = (max(8, size[0] // 2), max(8, size[1] // 2))  # Half the size is sharp enough for what is blurred.
    lights = picture.resize(small)
    pen = ImageDraw.Draw(lights, "RGBA")
    for _ in range(rng.integers(6, 26)):
        at, radius = rng.uniform([0, 0], small), rng.uniform(0.02, 0.1) * max(small)
        tone = np.minimum(tones[rng.integers(len(tones))] * rng.uniform(0.7, 1.5), 1)
        disc = shapes.disc(at, radius, (0, 0, 0)).outline.ravel().tolist()
        pen.polygon(disc, fill=(*(int(255 * value) for value in tone), int(rng.integers(40, 150))))
    return lights.filter(ImageFilter.GaussianBlur(rng.uniform(1, 3))).resize(size, Image.Resampling.BICUBIC)


def _wood(rng: Generator, size: tuple[int, int]) -> Image.Image:
    """Boards with grain."""
    tone = np.array([0.60, 0.45, 0.30]) * rng.uniform(0.6, 1.3) + rng.uniform(-0.05, 0.05, 3)
    boards = int(rng.integers(3, 6))
    board = (max(8, size[0] // boards), size[1])
    picture = Image.new("RGB", size)
    for number in range(boards + 1):
        grain = rng.standard_normal((1, board[0]), dtype=np.float32) * 0.07 + _noise(rng, board, 3) * 0.09
        pixels = tone * rng.uniform(0.85, 1.15) * (1 + grain)[..., None]
        pixels[:, :1] *= 0.35
        picture.paste(Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)), (number * board[0], 0))
    return picture if rng.random() < 0.5 else picture.rotate(90, expand=True).resize(size)


def _paper(rng: Generator, size: tuple[int, int]) -> Image.Image:
    """A sheet of paper or cloth, nearly plain."""
    tone = np.array([0.86, 0.84, 0.78]) * rng.uniform(0.55, 1.05) + rng.uniform(-0.06, 0.06, 3)
    return _textured(rng, size, tone, ((3, 0.04), (size[0], 0.03)))


_GROUNDS: tuple[Callable[[Generator, tuple[int, int]], Image.Image], ...] = (
    _soil,
    _grass,
    _gravel,
    _bokeh,
    _wood,
    _paper,
)


def _occlude(picture: Image.Image, rng: Generator) -> None:
    """Blades of grass, out of focus, between camera and plant."""
    layer = picture.copy()
    green = np.array([0.33, 0.46, 0.2]) * rng.uniform(0.5, 1.3) + rng.uniform(-0.05, 0.1, 3)
    _blades(layer, rng, int(rng.integers(2, 9)), green, (0.012, 0.035))
    mask = ImageChops.difference(layer, picture).convert("L").point([0] + [255] * 255)
    soft = ImageFilter.GaussianBlur(rng.uniform(0.5, 2.0))
    picture.paste(layer.filter(soft), (0, 0), mask.filter(soft))


def _light(picture: Image.Image, rng: Generator) -> np.ndarray:
    """Exposure, the colour of the light, and uneven shade: float32 [height, width, 3], 0..1."""
    size = picture.size
    pixels = np.asarray(picture, dtype=np.float32) / 255
    x, y = np.meshgrid(np.linspace(-1, 1, size[0], dtype=np.float32), np.linspace(-1, 1, size[1], dtype=np.float32))
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.35) * (np.cos(angle) * x + np.sin(angle) * y)
    if rng.random() < 0.35:  # Sun through leaves.
        light *= 1 - rng.uniform(0.25, 0.5) * (1 / (1 + np.exp(-4 * _noise(rng, size, int(rng.integers(3, 8))))))
    light *= 1 - rng.uniform(0, 0.3) * (x * x + y * y) / 2
    warm = rng.normal(0, 0.09)
    balance = np.array([1 + warm, 1 + rng.normal(0, 0.035), 1 - warm], dtype=np.float32)
    exposure = 2 ** rng.normal(0.25, 0.33)
    pixels = pixels * (light * exposure)[..., None].astype(np.float32) * balance
    contrast = rng.uniform(0.75, 1.2)
    pixels = (pixels - 0.4) * contrast + 0.4 + max(0.0, rng.normal(0, 0.04))
    shoulder = 0.8 + 0.2 * np.tanh((pixels - 0.8) / 0.2)  # Highlights fade into white instead of being cut off.
    seen: np.ndarray = np.where(pixels > 0.8, shoulder, pixels)
    return seen


def _camera(pixels: np.ndarray, rng: Generator) -> Image.Image:
    """Defocus or motion blur, then the sensor's noise."""
    picture = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
    fate = rng.random()
    if fate < 0.28:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.1)))
    elif fate < 0.38:
        kernel = np.zeros((5, 5))
        line = [(2, i) for i in range(5)] if rng.random() < 0.5 else [(i, i) for i in range(5)]
        for row, column in line[: rng.integers(3, 6)]:
            kernel[row, column] = 1
        picture = picture.filter(ImageFilter.Kernel((5, 5), kernel.ravel().tolist()))
    grain = rng.uniform(0, 8)
    noise = rng.standard_normal((picture.height, picture.width, 1), dtype=np.float32) * grain * 0.8
    colour = rng.standard_normal((picture.height, picture.width, 3), dtype=np.float32) * grain * 0.5
    noisy = np.asarray(picture, dtype=np.float32) + noise + colour
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
