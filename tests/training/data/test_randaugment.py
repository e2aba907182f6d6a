"""Every operation on colours is held against Pillow's, which RandAugment's authors used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from leafport.training.data import randaugment
from leafport.training.data.augment import NONE, augment
from leafport.training.data.randaugment import COLOURS, GEOMETRIC, IDENTITY

FORCE = 0.5
BETTER, WORSE = 1.45, 0.55
PILLOW: dict[str, Callable[[Image.Image], tuple[Image.Image, Image.Image]]] = {
    "identity": lambda image: (image, image),
    "auto_contrast": lambda image: (ImageOps.autocontrast(image),) * 2,
    "equalize": lambda image: (ImageOps.equalize(image),) * 2,
    "solarize": lambda image: (ImageOps.solarize(image, 128),) * 2,
    "posterize": lambda image: (ImageOps.posterize(image, 6),) * 2,
    "colour": lambda image: tuple(ImageEnhance.Color(image).enhance(share) for share in (BETTER, WORSE)),
    "contrast": lambda image: tuple(ImageEnhance.Contrast(image).enhance(share) for share in (BETTER, WORSE)),
    "brightness": lambda image: tuple(ImageEnhance.Brightness(image).enhance(share) for share in (BETTER, WORSE)),
    "sharpness": lambda image: tuple(ImageEnhance.Sharpness(image).enhance(share) for share in (BETTER, WORSE)),
}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Two unlike photographs, one of them of one colour: uint8 [2, 40, 48, 3]."""
    down, across = np.mgrid[:40, :48]
    noise = np.random.default_rng(0).normal(0, 12, (40, 48, 3))
    picture = np.stack([30 + 3 * across, 60 + 2 * down + across, 200 - 3 * down], axis=-1) + noise
    return np.stack([picture.clip(0, 255), np.full_like(picture, 77)]).astype(np.uint8)


@pytest.mark.parametrize("name", COLOURS)
def test_operations_on_colours_are_those_of_pillow(pixels: np.ndarray, name: str) -> None:
    number = IDENTITY + list(COLOURS).index(name)
    batch = np.repeat(pixels, 2, axis=0).astype(np.float32)
    done = randaugment.colours(
        batch, np.full((4, 1), number, np.int32), np.tile(np.float32([FORCE, -FORCE]), 2)[:, None]
    ).numpy()
    expected = [np.asarray(image) for photo in pixels for image in PILLOW[name](Image.fromarray(photo))]
    assert np.abs(done - np.stack(expected)).max() <= 1.5  # Pillow rounds down, and what it mixes with to the nearest.


def test_every_photograph_gets_its_own_operations_in_turn(pixels: np.ndarray) -> None:
    names = list(COLOURS)
    numbers = np.array(
        [
            [IDENTITY + names.index("posterize"), IDENTITY + names.index("solarize")],
            [IDENTITY + names.index("solarize"), IDENTITY + names.index("posterize")],
            [GEOMETRIC.index("rotate"), IDENTITY],
        ],
        np.int32,
    )
    image = Image.fromarray(pixels[0])
    batch = np.repeat(pixels[:1], 3, axis=0).astype(np.float32)
    done = randaugment.colours(batch, numbers, np.full((3, 2), FORCE, np.float32)).numpy()
    assert np.array_equal(done[0], np.asarray(ImageOps.solarize(ImageOps.posterize(image, 6), 128)))
    assert np.array_equal(done[1], np.asarray(ImageOps.posterize(ImageOps.solarize(image, 128), 6)))
    assert np.array_equal(done[2], pixels[0])


def test_operations_are_drawn_evenly_and_force_has_either_sign() -> None:
    from scipy import stats

    numbers, forces = (part.numpy() for part in randaugment.draw(3000, 2, 0.4, np.array([3, 4])))
    assert numbers.shape == forces.shape == (3000, 2)
    assert np.allclose(np.abs(forces), 0.4)
    assert abs(np.sign(forces).mean()) < 0.05
    for column in numbers.T:
        assert stats.chisquare(np.bincount(column, minlength=14)).pvalue > 0.01


def test_geometric_operations_are_one_warp() -> None:
    """Rotating and then moving is not moving and then rotating, and neither blurs twice."""
    height, width = 64, 64
    both = [[GEOMETRIC.index("rotate"), GEOMETRIC.index("translate_x")]]
    turned_first = randaugment.geometry(np.array(both), np.float32([[1, 1]]), height, width).numpy()[0]
    moved_first = randaugment.geometry(np.array(both)[:, ::-1], np.float32([[1, 1]]), height, width).numpy()[0]
    turn = np.array([[np.cos(np.pi / 6), -0.5, 0], [0.5, np.cos(np.pi / 6), 0], [0, 0, 1]])
    move = np.array([[1, 0, 64 * 150 / 331], [0, 1, 0], [0, 0, 1]])
    assert np.allclose(turned_first, turn @ move, atol=1e-5)
    assert np.allclose(moved_first, move @ turn, atol=1e-5)


def test_photographs_too_small_for_a_neighbourhood_survive() -> None:
    one = np.full((30, 2, 2, 3), 9, np.uint8)
    assert np.isfinite(augment(one, np.array([0, 0]), replace(NONE, randaugment=3, magnitude=1.0)).numpy()).all()
