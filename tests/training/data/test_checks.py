from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.demo import plants
from leafport.training.data import checks, duplicates, splits
from leafport.training.data.splits import Photo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plants.draw(tmp_path, photographs_per_species=5, seed=1)
    return tmp_path / "images"


def test_pictures_that_are_there_twice(folder: Path) -> None:
    one, other = sorted(path.name for path in folder.iterdir())[:2]
    (folder / one / "copy.jpg").write_bytes((folder / one / "000.jpg").read_bytes())
    images.open_rgb(folder / one / "001.jpg").save(folder / other / "again.jpg", quality=60)
    found = splits.scan(folder)
    divided = splits.split(found, alike=duplicates.find(found))
    exact, near = checks.check(found, divided).alike
    assert exact.exact
    assert exact.paths == (f"{one}/000.jpg", f"{one}/copy.jpg")
    assert not near.exact
    assert near.paths == (f"{one}/001.jpg", f"{other}/again.jpg")
    assert near.classes == (one, other)
    assert near.sides == ("train",)  # Two labels, one picture: not to be judged by.


def test_a_split_that_leaks_is_found(folder: Path) -> None:
    one = sorted(path.name for path in folder.iterdir())[0]
    for index in range(5):  # So many that a split which does not look must tear some apart.
        images.open_rgb(folder / one / f"00{index}.jpg").save(folder / one / f"again{index}.jpg", quality=50)
    found = splits.scan(folder)
    careless = splits.split(found, validation=0.3, test=0.3)
    report = checks.check(found, careless)
    assert report.leaks
    assert report.to_json()["alike"][0]["sides"]
    careful = splits.split(found, validation=0.3, test=0.3, alike=duplicates.find(found))
    assert checks.check(found, careful).leaks == []


def test_labels_that_a_stranger_is_sure_are_wrong() -> None:
    generator = np.random.default_rng(0)
    photos = [Photo(f"{name}/{i}.jpg", name, f"{ord(name):032x}{i:032x}") for name in "abc" for i in range(40)]
    centres = {"a": 0, "b": 1, "c": 2}
    features = np.stack([np.eye(16)[centres[p.folder]] * 12 + generator.normal(size=16) for p in photos])
    features[7] = np.eye(16)[2] * 12 + generator.normal(size=16)  # a/7.jpg looks like a c.
    found, accuracy = checks.suspect(photos, features)
    assert [(doubt.path, doubt.label, doubt.suggested) for doubt in found] == [("a/7.jpg", "a", "c")]
    assert found[0].suggested_probability >= 0.9
    assert accuracy == pytest.approx(119 / 120)


def test_a_copy_of_a_wrong_label_does_not_vouch_for_it() -> None:
    """Three copies of one mislabelled photograph: in other folds they would teach that the label is right."""
    generator = np.random.default_rng(0)
    photos = [Photo(f"{name}/{i}.jpg", name, f"{ord(name):032x}{i:032x}") for name in "ab" for i in range(150)]
    features = np.stack([np.eye(16)[int(p.folder == "b")] * 12 + generator.normal(size=16) for p in photos])
    wrong = np.eye(16)[1] * 12 + np.eye(16)[5] * 8
    features[:3] = wrong + generator.normal(scale=0.01, size=(3, 16))
    alone, _ = checks.suspect(photos, features)
    together, _ = checks.suspect(photos, features, [photos[:3]])
    assert len(together) > len(alone)
    assert {doubt.path for doubt in together} == {photo.path for photo in photos[:3]}
