from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leafport import files, images
from leafport.contract import ImageInput
from leafport.errors import ModelError, OutputError, UserError
from leafport.training.data import relevance, splits
from leafport.training.data.relevance import class_names, find, judge, network, write
from leafport.training.data.splits import PhotoFolder

NAMES = ("tench, Tinca tinca", "tabby, tabby cat", "crane", "great white shark", "crane", "Egyptian cat")
GREEN = 7


@pytest.fixture(scope="module")
def top_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of MobileNetV2 with its classification layer, with random values."""
    import keras

    keras.utils.set_random_seed(11)
    path = tmp_path_factory.mktemp("weights") / "top.weights.h5"
    keras.applications.MobileNetV2(weights=None).save_weights(path)
    return path


@pytest.fixture(scope="module")
def green_judge() -> Any:
    """A model of a thousand outputs, the eighth of which is the likelier the greener a photograph is."""
    import keras

    image = keras.Input((16, 16, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    dense = keras.layers.Dense(relevance.CLASSES, activation="softmax")
    model = keras.Model(image, dense(mean))
    kernel = np.zeros((3, relevance.CLASSES), np.float32)
    kernel[:, GREEN] = (-40, 40, -40)
    dense.set_weights([kernel, np.zeros(relevance.CLASSES, np.float32)])
    return model


@pytest.fixture
def coloured(tmp_path: Path) -> PhotoFolder:
    """Three green photographs of four, and a class of none."""
    for name, colour in {"a/1": "green", "a/2": "#00c000", "b/3": "#00ff00", "b/4": "red", "c/5": "blue"}.items():
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), colour).save(path)
    return splits.scan(tmp_path / "data", learn=False)


def test_classes_are_found_by_any_of_their_names() -> None:
    assert find(["TABBY"], NAMES) == [1]
    assert find(["tabby, tabby cat", "Tinca tinca"], NAMES) == [0, 1]
    assert find(["*cat"], NAMES) == [1, 5]
    assert find(["crane"], NAMES) == [2, 4]
    assert find(["great_white_shark"], NAMES) == [3]
    with pytest.raises(UserError, match=r"called 'tabi'. There are: tabby"):
        find(["crane", "tabi"], NAMES)
    with pytest.raises(UserError, match="Patterns such as"):
        find(["zzzzzz"], NAMES)


def test_names_are_read_from_the_lists_that_are_about(tmp_path: Path) -> None:
    names = tuple(f"class {index}, synonym" for index in range(1000))
    plain, numbered, index = tmp_path / "plain.txt", tmp_path / "synset_words.txt", tmp_path / "index.json"
    plain.write_text("\n".join(names) + "\n\n")
    numbered.write_text("\n".join(f"n{index:08} {name}" for index, name in enumerate(names)))
    index.write_text(json.dumps({str(i): [f"n{i:08}", name.replace(" ", "_")] for i, name in enumerate(names)}))
    assert class_names(plain) == class_names(numbered) == class_names(index) == names
    plain.write_text("\n".join(("background", *names)))
    with pytest.raises(UserError, match="1,001 names, not the 1000"):
        class_names(plain)
    with pytest.raises(UserError, match="does not exist"):
        class_names(tmp_path / "nowhere.txt")


def test_the_network_says_what_keras_says(top_weights: Path, photos: Path) -> None:
    import keras

    path = next(photos.glob("*/*.png"))
    pixels = images.read(path, ImageInput(height=224, width=224))[None].astype(np.float32)
    plain = keras.applications.MobileNetV2(weights=None)
    plain.load_weights(top_weights)
    prepared = keras.applications.mobilenet_v2.preprocess_input(pixels.copy())
    assert np.allclose(network("mobilenetv2", str(top_weights))(pixels), plain(prepared), atol=1e-6)


def test_weights_of_another_network_are_refused(top_weights: Path, mobilenet_weights: Path) -> None:
    with pytest.raises(ModelError, match=r"MobileNetV2\(include_top=True\) \(it holds"):
        network("mobilenetv2", str(mobilenet_weights))
    with pytest.raises(ModelError, match="There is no weights file"):
        network("mobilenetv2", "nowhere.h5")
    with pytest.raises(ModelError, match="small has no layer that knows"):
        network("small", str(top_weights))


def test_what_shows_nothing_looked_for_is_set_aside_and_nothing_is_lost(
    coloured: PhotoFolder, green_judge: Any, tmp_path: Path
) -> None:
    before = files.sha256(coloured.root)
    names = [f"class {index}, synonym" for index in range(1000)]
    judgements = judge(coloured, green_judge, names, [GREEN])
    assert [one.photo.path for one in judgements] == ["a/1.png", "a/2.png", "b/3.png", "b/4.png", "c/5.png"]
    assert [one.probability > 0.9 for one in judgements] == [True, True, True, False, False]
    assert judgements[0].guess == "class 7, synonym"

    out = tmp_path / "out"
    write(out, coloured, judgements, 0.5, {"keep": ["class 7"]})
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    kept = {"kept/a/1.png", "kept/a/2.png", "kept/b/3.png"}
    assert found == kept | {"dropped/b/4.png", "dropped/c/5.png", "dropped-001.png"}
    assert (out / "kept/a/1.png").read_bytes() == (coloured.root / "a/1.png").read_bytes()
    assert files.sha256(coloured.root) == before
    said = files.read_json(out / relevance.REPORT_FILE)
    assert said["keep"] == ["class 7"]
    assert [entry["kept"] for entry in said["photographs"]] == [True, True, True, False, False]
    assert said["photographs"][0]["sha256"] == coloured.photos[0].sha256


def test_the_contact_sheet_shows_the_likeliest_mistakes_first(coloured: PhotoFolder, green_judge: Any) -> None:
    judgements = judge(coloured, green_judge, ["?"] * 1000, [GREEN])
    (page,) = relevance.pages(coloured.root, [judgements[3], judgements[4]])
    colours = [page.getpixel((16 + 72 + column * (144 + 8), 16 + 72)) for column in range(2)]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert len(list(relevance.pages(coloured.root, judgements * 20))) == 2


def test_places_that_would_do_harm_are_refused(coloured: PhotoFolder, green_judge: Any, tmp_path: Path) -> None:
    judgements = judge(coloured, green_judge, ["?"] * 1000, [GREEN])
    with pytest.raises(OutputError, match="would be taken for a class"):
        write(coloured.root / "filtered", coloured, judgements, 0.5, {})
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists"):
        write(tmp_path / "out", coloured, judgements, 0.5, {})


def test_where_there_are_no_links_there_are_copies(
    coloured: PhotoFolder, green_judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(relevance.os, "link", refuse)
    write(tmp_path / "out", coloured, judge(coloured, green_judge, ["?"] * 1000, [GREEN]), 0.5, {})
    copy, original = tmp_path / "out/kept/a/1.png", coloured.root / "a/1.png"
    assert copy.read_bytes() == original.read_bytes()
    assert not copy.samefile(original)


@pytest.mark.plants
def test_a_real_network_sets_aside_what_is_no_plant(shared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("Dandellion", "Chicory"):
        (data / name).mkdir(parents=True)
        for path in sorted((shared / "plants" / "images" / name).iterdir())[:12]:
            shutil.copy(path, data / name)
    strays = sorted((shared / "reference").glob("*.jpg"))
    for path in strays:
        shutil.copy(path, data / "Chicory")
    names = class_names(shared / "weights" / "imagenet_labels.txt")
    wanted = ["daisy", "pot", "cardoon", "*butterfly*", "bee", "rapeseed", "head cabbage", "greenhouse", "valley"]
    model = network("mobilenetv2", str(shared / "weights" / "mobilenet_v2_1.0_224.weights.h5"))
    judgements = judge(splits.scan(data), model, names, find(wanted, names))
    lowest = sorted(judgements, key=lambda one: one.probability)[:4]
    assert {path.name for path in strays} <= {Path(one.photo.path).name for one in lowest}
    guesses = {Path(one.photo.path).stem: one.guess for one in judgements}
    assert "cat" in guesses["cat"]
    assert "hotdog" in guesses["hot_dog"]
    assert guesses["parrot"] == "macaw"
