"""Several views of a photograph, and the average of what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leafport import images
from leafport.classifier import Classifier
from leafport.contract import ImageInput
from leafport.errors import ImageError
from leafport.training.evaluation import tta

RULE = ImageInput(height=32, width=32)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Red from left to right, green from top to bottom, 160 x 96 pixels."""
    red, green = np.meshgrid(np.linspace(0, 255, 160), np.linspace(0, 255, 96))
    path = tmp_path / "photo.png"
    Image.fromarray(np.stack([red, green, 0 * red], axis=-1).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_the_first_view_is_the_photograph_as_it_is_asked_about_plainly(photo: Path, fit: str) -> None:
    rule = ImageInput(height=32, width=32, fit=fit)
    seen = tta.read(photo, rule)
    assert seen.shape == (len(tta.VIEWS), 32, 32, 3) and seen.dtype == np.uint8
    assert (seen[0] == images.read(photo, rule)).all()


def test_each_view_shows_its_part(photo: Path) -> None:
    seen = dict(zip([view.name for view in tta.VIEWS], tta.read(photo, RULE).astype(float), strict=True))
    assert (seen["whole, mirrored"] == seen["whole"][:, ::-1]).all()
    assert (seen["middle, mirrored"] == seen["middle"][:, ::-1]).all()
    # The middle leaves out a sixteenth at each side, of which the first pixel's centre is half a pixel in.
    for axis, channel in ((1, 0), (0, 1)):
        line = seen["middle"][..., channel].mean(axis=1 - axis)
        assert line[0] == pytest.approx(255 * (1 / 16 + 7 / 8 / 64), abs=2.5)
        assert line[-1] == pytest.approx(255 * (15 / 16 - 7 / 8 / 64), abs=2.5)
        assert line[-1] - line[0] < np.ptp(seen["whole"][..., channel].mean(axis=1 - axis)) - 20


def test_answers_are_averages_over_the_views(trained: Path, photos: Path) -> None:
    classifier = Classifier.load(trained)
    paths = sorted(photos.glob("*/*.png"))[:11]
    done = []
    found = tta.predict(classifier, paths, batch_size=4, progress=lambda n, total: done.append((n, total)))
    for path, answer in zip(paths, found, strict=True):
        assert answer == pytest.approx(
            classifier.predict(tta.read(path, classifier.contract.image)).mean(axis=0), abs=1e-5
        )
    assert done == [(4, 11), (8, 11), (11, 11)]
    plain = tta.predict(classifier, paths, views=tta.VIEWS[:1])
    pixels = np.stack([images.read(path, classifier.contract.image) for path in paths])
    assert plain == pytest.approx(classifier.predict(pixels), abs=1e-5)
    with pytest.raises(ImageError, match="does not exist"):
        tta.predict(classifier, [photos / "nowhere.png"])
