from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leafport.training.data import splits, statistics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 grey photographs of one class, 3 of another; a white one, and one that is shown upright by its EXIF."""
    for name, count, level in (("common", 40, 100), ("rare", 3, 101)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(count):
            grey = np.full((20, 30, 3), level, np.uint8)
            grey[0, 0] = index
            Image.fromarray(grey).save(tmp_path / "photos" / name / f"{index:02}.png")
    Image.new("RGB", (30, 20), "white").save(tmp_path / "photos" / "rare" / "white.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 20), (10, 10, 10)).save(tmp_path / "photos" / "rare" / "x.png", "JPEG", exif=exif)
    return tmp_path / "photos"


def test_figures(folder: Path) -> None:
    (folder / "rare" / "text.jpg").write_text("no photograph")
    measured = statistics.measure(splits.scan(folder), {"common": "harmless", "rare": "poisonous"})
    value = measured.to_json()
    assert value["photographs"] == 45
    assert value["classes"] == {"common": 40, "rare": 5}
    assert value["labels"] == {"harmless": 40, "poisonous": 5}
    assert value["formats"] == {"PNG": 43, "JPEG": 2}  # What the bytes are, whatever the name.
    assert (value["width"]["min"], value["width"]["max"]) == (20, 30)
    assert (value["height"]["min"], value["height"]["max"]) == (20, 64)  # The EXIF tag turned it.
    assert value["brightness"]["median"] == pytest.approx(100, abs=1)
    assert (value["brightness"]["min"], value["brightness"]["max"]) == pytest.approx((10, 255), abs=2)
    assert len(value["skipped"]) == 1


def test_warnings(folder: Path) -> None:
    tiny = statistics.measure(splits.scan(folder)).warnings
    assert len(tiny) == 1
    assert "fewer than 30" in tiny[0]
    assert "rare" in tiny[0]
    for name in ("02.png", "white.jpg", "x.png"):
        (folder / "rare" / name).unlink()
    imbalanced = statistics.measure(splits.scan(folder)).warnings
    assert "common has 40 photographs, rare 2" in imbalanced[0]
    assert "--balance" in imbalanced[0]


def test_an_even_folder_has_none(folder: Path) -> None:
    shutil.rmtree(folder / "rare")
    shutil.copytree(folder / "common", folder / "also")
    for path in (folder / "also").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)  # Else each would be in two classes, and skipped.
    assert statistics.measure(splits.scan(folder)).warnings == []


def test_the_picture_of_them(folder: Path, tmp_path: Path) -> None:
    statistics.draw(tmp_path / "stats", statistics.measure(splits.scan(folder)))
    with Image.open(tmp_path / "stats") as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors(1 << 20) or []) > 10
