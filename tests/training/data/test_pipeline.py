from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.contract import ImageInput
from leafport.errors import ImageError
from leafport.training.data.pipeline import Augmentation, augment, batches, read_ahead, training_batches

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


def test_augmentation_varies_and_stays_in_range(paths: list[Path]) -> None:
    pixels = np.stack([images.read(path, RULE) for path in paths]).astype(np.float32)
    varied = augment(pixels, np.array([1, 2]), Augmentation()).numpy()
    assert varied.shape == pixels.shape
    assert varied.min() >= 0
    assert varied.max() <= 255
    assert np.abs(varied - pixels).mean() > 5
    again = augment(pixels, np.array([1, 3]), Augmentation()).numpy()
    assert np.abs(varied - again).mean() > 5


def test_augmentation_of_strength_zero_changes_nothing(paths: list[Path]) -> None:
    pixels = np.stack([images.read(path, RULE) for path in paths]).astype(np.float32)
    none = Augmentation(flip=False, rotation=0, zoom=0, shift=0, brightness=0, contrast=0)
    assert np.allclose(augment(pixels, np.array([1, 2]), none).numpy(), pixels, atol=1e-2)
    mirrored = augment(pixels, np.array([1, 2]), Augmentation(True, 0, 0, 0, 0, 0)).numpy()
    same = np.array([np.allclose(a, b, atol=1e-2) for a, b in zip(mirrored, pixels, strict=True)])
    turned = np.array([np.allclose(a, b[:, ::-1], atol=1e-2) for a, b in zip(mirrored, pixels, strict=True)])
    assert (same ^ turned).all()
    assert 0 < same.sum() < len(same)


def test_a_photograph_that_vanished_is_named(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        list(read_ahead([*paths[:3], tmp_path / "gone.jpg"], RULE, 2))
