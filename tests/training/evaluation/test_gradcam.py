"""Where a classifier looked, on networks of which that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leafport.classifier import Classifier
from leafport.contract import ImageInput
from leafport.errors import ModelError
from leafport.training import backbones, heads
from leafport.training.evaluation import gradcam

SIZE = 32


def spotter(last: str = "dense") -> Any:
    """A network that says "bright" for a bright patch and "dark" for a dark one, wherever it lies; 8 x 8 maps."""
    import keras

    inner = keras.Input((SIZE, SIZE, 3))
    average = keras.layers.Conv2D(2, 4, strides=4, activation="relu", name="patches")
    backbone = keras.Model(inner, average(inner), name="backbone")
    kernel = np.full((4, 4, 3, 1), 1 / 48, np.float32)
    average.set_weights([np.concatenate([kernel, -kernel], axis=-1), np.array([-0.7, 0.3], np.float32)])
    image = keras.Input((SIZE, SIZE, 3), name="image")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(keras.layers.Rescaling(1 / 255)(image), training=False))
    dense = keras.layers.Dense(2, activation="softmax" if last == "dense" else None, name="probabilities")
    outputs = dense(pooled)
    dense.set_weights([np.array([[900.0, -900.0], [-900.0, 900.0]], np.float32), np.zeros(2, np.float32)])
    ends = {"dense": lambda x: x, "softmax": keras.layers.Softmax(), "activation": keras.layers.Activation("softmax")}
    return keras.Model(image, ends[last](outputs))


def grey_with(value: int, row: int, column: int) -> np.ndarray:
    """A grey picture, uint8 [32, 32, 3], with a square patch at one of 4 x 4 places."""
    pixels = np.full((SIZE, SIZE, 3), 128, np.uint8)
    pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = value
    return pixels


@pytest.mark.parametrize("last", ["dense", "softmax", "activation"])
@pytest.mark.parametrize(("row", "column"), [(0, 3), (3, 0), (2, 1)])
def test_the_heat_lies_where_the_patch_is(tmp_path: Path, last: str, row: int, column: int) -> None:
    import keras

    spotter(last).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    network = gradcam.network(model)
    for label, value in enumerate((255, 0)):
        pixels = grey_with(value, row, column)
        assert model(pixels[None].astype(np.float32))[0, label] == 1  # So sure that the softmax has no gradient left.
        found = gradcam.heat(network, pixels, label)
        expected = np.zeros((8, 8))
        expected[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
        assert np.allclose(found, expected, atol=1e-6)
        assert not gradcam.heat(network, pixels, 1 - label).any()  # Nothing speaks for the other.


def test_the_heat_is_the_class_activation_map_where_features_are_averaged() -> None:
    import keras

    keras.utils.set_random_seed(5)
    built = backbones.build("small", classes=6, image_size=64, weights="none")
    kernel = built.model.layers[-1].get_weights()[0]
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    network = gradcam.network(built.model)
    maps, logits = network(pixels[None].astype(np.float32))
    assert np.allclose(keras.ops.softmax(logits), built.model(pixels[None].astype(np.float32)), atol=1e-6)
    spoken_for = 0
    for label in range(6):
        expected = np.maximum((np.asarray(maps)[0] * kernel[:, label]).sum(axis=-1), 0)  # Zhou et al. 2016.
        spoken_for += expected.any()
        assert np.allclose(gradcam.heat(network, pixels, label), expected / (expected.max() or 1), atol=1e-4)
    assert spoken_for > 1


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "gap") for name in backbones.BACKBONES), *(("small", kind) for kind in heads.KINDS[1:])]
)
def test_every_backbone_and_head_can_be_asked(tmp_path: Path, name: str, kind: Any) -> None:
    import keras

    row = backbones.BACKBONES[name]
    size = 96 if name == "small" else 64
    head = heads.Head(kind=kind)
    keras.utils.set_random_seed(3)
    model = backbones.build(name, classes=3, image_size=size, weights="none", head=head).model
    if name in ("small", "mobilenet"):  # Reading what was written takes long for large ones, and is the same for all.
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    network = gradcam.network(model)
    pixels = np.random.default_rng(2).integers(0, 256, (size, size, 3), dtype=np.uint8)
    maps, logits = network(pixels[None].astype(np.float32), training=False)
    expected = row.network(size).output_shape[1:3]
    assert tuple(maps.shape[1:3]) == expected
    assert np.allclose(keras.ops.softmax(logits), model(pixels[None].astype(np.float32), training=False), atol=1e-5)
    found = [gradcam.heat(network, pixels, label) for label in range(3)]
    assert all(one.shape == expected and np.isfinite(one).all() and one.min() >= 0 for one in found)
    assert max(one.max() for one in found) == 1


def test_a_trained_classifier_can_be_asked_and_is_left_as_it_was(trained: Path) -> None:
    classifier = Classifier.load(trained)
    before = classifier.predict(np.zeros((1, 32, 32, 3), np.uint8))
    config = classifier.model.to_json()
    found = gradcam.heat(gradcam.network(classifier.model), np.zeros((32, 32, 3), np.uint8), 2)
    assert found.min() >= 0 and found.max() <= 1
    assert (classifier.predict(np.zeros((1, 32, 32, 3), np.uint8)) == before).all()
    assert classifier.model.to_json() == config


def test_a_model_without_maps_is_refused() -> None:
    import keras

    flat = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, activation="softmax")])
    with pytest.raises(ModelError, match="no map of features"):
        gradcam.network(flat)


def test_the_overlay_colours_only_what_the_classifier_saw() -> None:
    photo = Image.new("RGB", (80, 40), (0, 120, 0))
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    for fit, (left, right) in {"squash": (0, 80), "crop": (20, 60)}.items():
        shown = np.asarray(gradcam.overlay(photo, heat, ImageInput(height=32, width=32, fit=fit))).astype(int)
        assert shown.shape == (40, 80, 3)
        assert np.unravel_index(shown[..., 0].argmax(), shown.shape[:2])[1] >= left + 0.75 * (right - left)
        changed = (shown != (0, 120, 0)).any(axis=2)
        assert changed[:, left:right].all() and not changed[:, :left].any() and not changed[:, right:].any()
