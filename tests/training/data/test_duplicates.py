from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from leafport import images
from leafport.demo import plants
from leafport.errors import ImageError
from leafport.training.data.duplicates import groups, perceptual_hashes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drawn")
    plants.draw(folder, photographs_per_species=6, seed=3)
    return sorted(folder.glob("images/*/*.jpg"))


def variations(path: Path, out: Path) -> list[Path]:
    """The same picture smaller, poorer, brighter, as PNG, and turned with an EXIF tag that turns it back."""
    image = images.open_rgb(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "small.jpg": (image.resize((image.width * 2 // 3, image.height * 2 // 3)), {}),
        "poor.jpg": (image, {"quality": 25}),
        "bright.jpg": (ImageEnhance.Brightness(image).enhance(1.15), {"quality": 90}),
        "plain.png": (image, {}),
        "turned.jpg": (image.transpose(Image.Transpose.ROTATE_90), {"quality": 95, "exif": exif}),
    }
    paths = []
    for name, (changed, options) in made.items():
        buffer = io.BytesIO()
        changed.save(buffer, "PNG" if name.endswith("png") else "JPEG", **options)
        (out / name).write_bytes(buffer.getvalue())
        paths.append(out / name)
    return paths


def test_the_same_picture_in_other_bytes_is_found_and_no_other(drawn: list[Path], tmp_path: Path) -> None:
    paths = [*drawn, *variations(drawn[5], tmp_path)]
    told: list[tuple[int, int]] = []
    hashes = perceptual_hashes(paths, progress=lambda done, total: told.append((done, total)))
    assert groups(hashes) == [[5, *range(len(drawn), len(paths))]]
    assert told[-1] == (len(paths), len(paths))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(0, 40))
def test_groups_are_those_of_a_plain_search(values: list[int], distance: int) -> None:
    label = list(range(len(values)))
    for one in range(len(values)):
        for other in range(one):
            if (values[one] ^ values[other]).bit_count() <= distance:
                low, high = sorted((label[one], label[other]))
                label = [low if entry == high else entry for entry in label]
    expected = [[i for i, entry in enumerate(label) if entry == first] for first in dict.fromkeys(label)]
    assert groups(np.array(values, np.uint64), distance) == [group for group in expected if len(group) > 1]


def test_a_damaged_photograph_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no photograph")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        perceptual_hashes([tmp_path / "bad.jpg"])
