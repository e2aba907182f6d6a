from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.contract import ImageInput
from leafport.training.data.augment import Augmentation, augment

RULE = ImageInput(height=24, width=32)


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*.png"))[:20]


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
