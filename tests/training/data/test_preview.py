from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.contract import ImageInput
from leafport.training.data import preview
from leafport.training.data.augment import Augmentation, kernels

RULE = ImageInput(height=40, width=40)


@pytest.fixture(scope="module")
def photograph(photos: Path) -> Path:
    return sorted(photos.glob("*/*.png"))[0]


def test_every_augmentation_that_is_on_has_a_row_and_does_nothing_else(photograph: Path) -> None:
    strength = Augmentation.parse("none,rotation=40,brightness=0.3,randaugment=1,magnitude=0.5")
    first, *others = preview.rows(photograph, RULE, strength, draws=5)
    original = images.read(photograph, RULE)
    assert [len(first.tiles), *(len(row.tiles) for row in others)] == [1, 5, 5, 5, 5]
    assert np.array_equal(first.tiles[0].pixels, original)
    assert [row.title for row in others] == ["rotation = 40", "brightness = 0.3", "randaugment = 1", "all together"]
    assert "magnitude = 0.5" in others[2].text
    turned, lit = ([tile.pixels.astype(int) for tile in row.tiles] for row in others[:2])
    assert all((tile != original).any() for tile in turned + lit)
    assert all(np.ptp(np.median(tile - original, axis=(0, 1))) <= 1 for tile in lit)


def test_mixing_shows_the_other_photograph_and_its_share(photograph: Path, photos: Path) -> None:
    other = sorted(photos.glob("*/*.png"))[-1]
    (one, two), mixed, _ = (
        row.tiles for row in preview.rows(photograph, RULE, Augmentation.parse("none,cutmix=1"), other=other)
    )
    assert np.array_equal(two.pixels, images.read(other, RULE))
    for tile in mixed:
        own = (tile.pixels == one.pixels).all(axis=-1)
        assert (own | (tile.pixels == two.pixels).all(axis=-1)).all()
        assert float(tile.caption.split("%")[0]) == pytest.approx(100 * own.mean(), abs=1)
    assert any((tile.pixels != one.pixels).any() for tile in mixed)
    (one, two), _, _ = (row.tiles for row in preview.rows(photograph, RULE, Augmentation.parse("none,mixup=1")))
    assert np.array_equal(two.pixels, one.pixels[::-1, ::-1])


def test_kernels_are_shown_as_devices_have_them(photograph: Path) -> None:
    row = preview.rows(photograph, RULE, Augmentation.parse("none,kernels"))[1]
    assert [tile.caption for tile in row.tiles] == ["bilinear", "bilinear, not antialiased", "bicubic", "nearest"]
    for tile, rule in zip(row.tiles, kernels(RULE), strict=True):
        assert np.array_equal(tile.pixels, images.read(photograph, rule))


def test_everything_there_is_and_the_same_again(photograph: Path) -> None:
    rows, again, another = (preview.rows(photograph, RULE, draws=2, seed=seed) for seed in (0, 0, 1))
    settings = ("magnitude", "probability")
    expected = [option.name for option in fields(Augmentation) if option.name not in settings]
    assert [row.title.split(" ")[0] for row in rows[1:-1]] == expected
    together = [[tile.pixels for tile in found[-1].tiles] for found in (rows, again, another)]
    assert np.array_equal(together[0], together[1])
    assert not np.array_equal(together[0], together[2])
