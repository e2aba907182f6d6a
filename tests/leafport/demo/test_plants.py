"""The demonstration's photographs: the same for a seed, usable as one's own, told apart by shape and not by colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leafport import files, images
from leafport.contract import ImageInput
from leafport.demo import plants, scene, species
from leafport.errors import OutputError, UserError

PER_SPECIES = 24
POISONOUS = ["Chalk_Bell", "Inkblot_Umbel", "Sawtooth_Spike"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return plants.draw(tmp_path_factory.mktemp("demo") / "photographs", photographs_per_species=PER_SPECIES, size=112)


@pytest.fixture(scope="module")
def pixels(data):
    """Every photograph at 48 pixels, and the number of its species."""
    rule = ImageInput(height=48, width=48)
    found = [
        (path, label) for label, name in enumerate(data.species) for path in sorted((data.images / name).iterdir())
    ]
    return np.stack([images.read(path, rule) for path, _ in found]), np.array([label for _, label in found])


def test_photographs_are_sorted_into_folders_as_a_user_would_sort_them(data):
    assert len(data.species) == 8
    assert sorted(folder.name for folder in data.images.iterdir()) == sorted(data.species)
    for name in data.species:
        assert sorted(path.name for path in (data.images / name).iterdir()) == [
            f"{n:03}.jpg" for n in range(PER_SPECIES)
        ]
    assert data.photographs == 8 * PER_SPECIES
    assert data.poisonous.read_text(encoding="utf-8").split() == POISONOUS


def test_every_photograph_opens_and_no_two_are_alike(data):
    paths = files.files_in(data.images)
    assert all(images.open_rgb(path).mode == "RGB" for path in paths)
    assert len({files.sha256(path) for path in paths}) == data.photographs


def test_the_same_seed_draws_the_same_bytes_and_another_seed_does_not(tmp_path):
    first, again, other = (
        plants.draw(tmp_path / name, photographs_per_species=2, seed=seed, size=64)
        for name, seed in (("first", 7), ("again", 7), ("other", 8))
    )
    assert files.sha256(first.images) == files.sha256(again.images) != files.sha256(other.images)


def test_drawing_more_keeps_the_photographs_there_were(tmp_path):
    few = plants.draw(tmp_path / "few", photographs_per_species=1, size=64)
    more = plants.draw(tmp_path / "more", photographs_per_species=2, size=64)
    for name in few.species:
        assert files.sha256(few.images / name / "000.jpg") == files.sha256(more.images / name / "000.jpg")


def test_sizes_shapes_qualities_and_orientations_vary(data):
    shapes, orientations, tables = set(), [], set()
    for path in files.files_in(data.images):
        with Image.open(path) as image:
            shapes.add(np.sign(image.width - image.height))
            orientations.append(image.getexif().get(0x0112, 1))
            tables.add(tuple(image.quantization[0]))
    assert shapes == {-1, 0, 1}
    assert set(orientations) == {1, 3, 6, 8}
    assert 0.15 < np.mean(np.array(orientations) != 1) < 0.45
    assert len(tables) > 20


def test_the_orientation_tag_turns_the_stored_pixels_upright(tmp_path, monkeypatch):
    upright = Image.new("RGB", (90, 60), "white")
    upright.paste("red", (0, 0, 90, 20))
    for orientation in (1, 3, 6, 8):
        taken = scene.Photograph(upright, 90, orientation)
        monkeypatch.setattr(plants.scene, "photograph", lambda *_, taken=taken: taken)
        data = plants.draw(tmp_path / str(orientation), photographs_per_species=1)
        shown = images.open_rgb(data.images / data.species[0] / "000.jpg")
        assert shown.size == (90, 60)
        red, green, _ = shown.getpixel((45, 8))
        assert red > 200 > 60 > green


def test_colour_does_not_tell_the_species_apart(pixels):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    x, y = pixels
    colour = x.reshape(len(x), -1, 3).mean(axis=1) / 255
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    assert (
        cross_val_score(LogisticRegression(C=100, max_iter=2000), colour, y, cv=folds).mean() < 0.3
    )  # Chance is 0.125.


def test_shape_does_tell_them_apart(pixels):
    """Edge directions by region, a linear model on them: less than any network sees."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = pixels
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=500))
    assert cross_val_score(model, _edge_histograms(x), y, cv=folds).mean() > 0.3


def _edge_histograms(x: np.ndarray) -> np.ndarray:
    """How strong the edges of 8 directions are in each of 6 x 6 regions: float [N, 288]."""
    grey = x.astype(np.float32).mean(axis=3)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right)
    sector = (np.arctan2(down, right) % np.pi / np.pi * 8).astype(int) % 8
    channels = [(strength * (sector == k)).reshape(len(x), 6, 8, 6, 8).sum(axis=(2, 4)) for k in range(8)]
    found = np.stack(channels, axis=-1).reshape(len(x), -1)
    return np.sqrt(found / found.sum(axis=1, keepdims=True))


def test_progress_counts_up_to_the_last_photograph(tmp_path):
    seen: list[tuple[int, int]] = []
    plants.draw(
        tmp_path / "out", photographs_per_species=1, size=48, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 8) for done in range(1, 9)]


def test_earlier_demo_data_are_replaced_and_other_folders_are_left_alone(tmp_path):
    out = tmp_path / "out"
    plants.draw(out, photographs_per_species=2, size=48)
    plants.draw(out, photographs_per_species=1, size=48)
    assert len(files.files_in(out / "images")) == 8
    (out / "images" / "My_Garden").mkdir()
    with pytest.raises(OutputError, match="holds other things"):
        plants.draw(out, photographs_per_species=1, size=48)
    assert len(files.files_in(out / "images")) == 8


def test_an_interrupted_drawing_leaves_nothing(tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plants.draw(tmp_path / "out", photographs_per_species=1, size=48, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"photographs_per_species": 0}, {"size": 8}, {"size": 100_000}, {"seed": -1}])
def test_what_cannot_be_drawn_is_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="Cannot draw"):
        plants.draw(tmp_path / "out", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_poisonous_plants_have_edible_doubles(data):
    assert [kind.name for kind in species.SPECIES if kind.poisonous] == POISONOUS
    assert {"Crayon_Umbel", "Pencil_Spike"} <= set(data.species)
