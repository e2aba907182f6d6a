"""Pruning: so many zeros as were asked for, the smallest weights, and they stay zeros in the files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from leafport import files
from leafport.classifier import Classifier
from leafport.errors import ModelError
from leafport.export import graph
from leafport.targets import tflite
from leafport.training import origin
from leafport.training.config import Config
from leafport.training.pruning import prune, share, sparsity
from leafport.training.train import check, train


@pytest.fixture
def network() -> keras.Model:
    image = keras.Input((8, 8, 16))
    maps = layers.DepthwiseConv2D(5, depth_multiplier=1, name="depthwise")(layers.Conv2D(64, 3, name="large")(image))
    maps = layers.Conv2D(4, 1, name="small")(maps)
    features = layers.Dense(300, name="dense")(layers.GlobalAveragePooling2D()(maps))
    return keras.Model(image, layers.Dense(40, activation="softmax", name="probabilities")(features))


def kernel(network: keras.Model, name: str) -> np.ndarray:
    return np.asarray(network.get_layer(name).kernel)


def test_the_smallest_weights_of_large_layers_become_zeros(network: keras.Model) -> None:
    before = {name: kernel(network, name) for name in ("large", "depthwise", "small", "dense", "probabilities")}
    prune(network, 0.75)
    for name in ("large", "dense"):
        zero = kernel(network, name) == 0
        assert zero.mean() == pytest.approx(0.75, abs=1e-3)
        assert np.abs(before[name][zero]).max() <= np.abs(before[name][~zero]).min()
        np.testing.assert_array_equal(kernel(network, name)[~zero], before[name][~zero])
    for name in ("depthwise", "small", "probabilities"):
        np.testing.assert_array_equal(kernel(network, name), before[name])
    assert sparsity(network) == pytest.approx(0.75, abs=1e-3)


def test_frozen_layers_keep_their_weights(network: keras.Model) -> None:
    network.get_layer("large").trainable = False
    before = kernel(network, "large")
    prune(network, 0.5)
    np.testing.assert_array_equal(kernel(network, "large"), before)


def test_the_share_grows_fast_and_then_slowly() -> None:
    grown = [share(0.8, progress) for progress in np.linspace(0, 1, 11)]
    assert grown[0] == 0 and grown[-1] == pytest.approx(0.8)
    steps = np.diff(grown)
    assert (steps > 0).all() and (np.diff(steps) < 0).all()
    assert share(0.8, 3.0) == pytest.approx(0.8)


@pytest.fixture(scope="module")
def pruned(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "run"
    return train(origin.settings(trained, photos, out, {"sparsity": 0.6, "max_steps": 4, "unfreeze": "all"}))


def test_a_trained_classifier_has_its_zeros(pruned: Path) -> None:
    """Also in the head, which is fitted once more at the end."""
    assert sparsity(Classifier.load(pruned).model) == pytest.approx(0.6, abs=0.01)


def test_zeros_stay_in_8_bits_and_zip_to_nothing(pruned: Path, trained: Path, photos: Path, tmp_path: Path) -> None:
    options = tflite.Options(calibration=tuple(sorted(photos.glob("*/00*.png")))[:16])
    sizes = {}
    for name, run in (("whole", trained), ("pruned", pruned)):
        folder = tmp_path / name
        folder.mkdir()
        serving = graph.build(Classifier.load(run), folder)
        for variant in ("float32", "dynamic"):
            nearest = dataclasses.replace(options, fit_rounding=name == "pruned")  # The other's size hardly changes.
            sizes[name, variant] = files.zipped_bytes(tflite.convert(serving, variant, folder, nearest))
    assert sizes["pruned", "float32"] < 0.55 * sizes["whole", "float32"]
    assert sizes["pruned", "dynamic"] < 0.7 * sizes["whole", "dynamic"]


def test_it_takes_epochs(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--prune and --cluster take epochs"):
        check(Config(photos, tmp_path / "out", epochs=0, sparsity=0.5))
