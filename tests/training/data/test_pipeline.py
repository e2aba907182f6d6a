from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.contract import ImageInput
from leafport.errors import ImageError
from leafport.training.data.augment import Augmentation
from leafport.training.data.pipeline import batches, read_ahead, training_batches

RULE = ImageInput(height=24, width=32)


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*.png"))[:20]


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_every_way_gives_the_pixels_of_images_read(paths: list[Path], fit: str) -> None:
    rule = RULE.model_copy(update={"fit": fit})
    expected = np.stack([images.read(path, rule) for path in paths])
    truth = np.arange(len(paths))
    ordered = list(batches(paths, truth, rule, 8).as_numpy_iterator())
    assert np.array_equal(np.concatenate([pixels for pixels, _ in ordered]), expected)
    assert np.array_equal(np.concatenate([label for _, label in ordered]), truth)
    assert np.array_equal(np.concatenate(list(read_ahead(paths, rule, 8))), expected)

    endless = training_batches(paths, truth, rule, 8, seed=0, augmentation=None)
    for pixels, label in endless.take(3).as_numpy_iterator():
        assert np.array_equal(pixels, expected[label].astype(np.float32))


def test_an_epoch_is_every_photograph_once_in_another_order(paths: list[Path]) -> None:
    endless = training_batches(paths, np.arange(len(paths)), RULE, 8, seed=0, augmentation=Augmentation())
    labels = [label for _, label in endless.take(6).as_numpy_iterator()]
    first, second = np.concatenate(labels[:3]), np.concatenate(labels[3:])
    assert sorted(first) == sorted(second) == list(range(len(paths)))
    assert list(first) != list(second)


def test_a_seed_gives_the_same_batches_again(paths: list[Path]) -> None:
    def some(seed: int) -> np.ndarray:
        truth = np.zeros(len(paths))
        endless = training_batches(paths, truth, RULE, 8, seed=seed, augmentation=Augmentation())
        return np.concatenate([pixels for pixels, _ in endless.take(4).as_numpy_iterator()])

    assert np.array_equal(some(1), some(1))
    assert not np.array_equal(some(1), some(2))


def test_a_photograph_that_vanished_is_named(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        list(read_ahead([*paths[:3], tmp_path / "gone.jpg"], RULE, 2))
