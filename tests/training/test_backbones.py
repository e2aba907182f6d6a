from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from leafport.errors import ModelError
from leafport.training.backbones import BACKBONES, Network, blocks, build, unfreeze

if TYPE_CHECKING:
    import keras


PREPROCESSING = {
    "resnet50": "resnet",
    "resnet50v2": "resnet_v2",
    "resnet101": "resnet",
    "vgg16": "vgg16",
    "mobilenet": "mobilenet",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3large": "mobilenet_v3",
    "mobilenetv3small": "mobilenet_v3",
    "efficientnetv2b0": "efficientnet_v2",
}


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=BACKBONES)
def scratch(request: pytest.FixtureRequest) -> Network:
    """A new network of each kind, for images of 64 pixels."""
    return build(request.param, classes=3, image_size=64, weights="none")


def test_a_network_turns_raw_pixels_into_probabilities(scratch: Network) -> None:
    probabilities = np.asarray(scratch.model(noise(64), training=False))
    assert probabilities.shape == (2, 3)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1)
    pooled = np.asarray(scratch.features(noise(64), training=False))
    assert np.allclose(np.asarray(scratch.head(pooled, training=False)), probabilities, atol=1e-5)
    assert scratch.model.get_layer(scratch.backbone.name) is scratch.backbone


@pytest.mark.parametrize("name", PREPROCESSING)
def test_networks_see_what_their_weights_were_trained_on(name: str, tmp_path: Path) -> None:
    """The same features as of Keras's network behind Keras's own preprocessing, wherever that takes place."""
    import keras

    keras.utils.set_random_seed(1)
    builder = getattr(keras.applications, str(BACKBONES[name].builder))
    original = builder(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    for weight in original.weights:
        if weight.name == "moving_variance":  # Or hardly anything comes through so many untrained layers.
            weight.assign(weight * 0.1)
    original.save_weights(tmp_path / "some.weights.h5")
    prepare = getattr(keras.applications, PREPROCESSING[name]).preprocess_input
    expected = np.asarray(original(prepare(noise(32)), training=False))
    network = build(name, classes=3, image_size=32, weights=str(tmp_path / "some.weights.h5"))
    found = np.asarray(network.features(noise(32), training=False))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    swapped = np.asarray(network.features(noise(32)[..., ::-1], training=False))
    assert np.abs(swapped - expected).max() > 1e-2 * np.abs(expected).max()


def changeable(network: Network) -> list[str]:
    return [layer.name for layer in network.backbone.layers if layer.weights and layer.trainable]


def test_blocks(scratch: Network) -> None:
    """They hold every layer once, one after the other; each has weights, and its map goes on to the next."""
    backbone = scratch.backbone
    found = blocks(backbone, backbone.name)
    assert [layer for block in found for layer in block] == backbone.layers
    assert 5 <= len(found) <= 34
    for block in found:
        assert any(layer.weights for layer in block)
    for before, after in itertools.pairwise(found):
        assert ends_block(backbone, before, after), f"{before[-1].name} is not all that {after[0].name} builds on"


def ends_block(
    backbone: keras.Model, before: Sequence[keras.layers.Layer], after: Sequence[keras.layers.Layer]
) -> bool:
    """Whether nothing after a block reads anything of it but its last layer's result."""
    position = {layer.name: index for index, layer in enumerate(backbone.layers)}
    border = position[after[0].name]
    read = {
        source.operation.name
        for layer in backbone.layers[border:]
        for node in layer._inbound_nodes
        for source in node.parent_nodes
        if position.get(source.operation.name, border) < border
    }
    return read == {before[-1].name}


def test_early_layers_are_those_at_high_resolution(scratch: Network) -> None:
    """Those before a quarter of the image's side stay as they are, those after an eighth do not."""
    name = scratch.backbone.name
    unfreeze(scratch, name, "late")
    for layer in scratch.backbone.layers:
        # A map of one pixel may be what weighs the channels of a larger one.
        if name != "small" and layer.weights and len(layer.output.shape) == 4 and layer.output.shape[1] > 1:
            side = layer.output.shape[1]
            assert not (side > 64 // 4 and layer.trainable), layer.name
            assert not (side < 64 // 8 - 1 and not layer.trainable), layer.name
    assert scratch.head.trainable_weights


def test_how_much_is_unfrozen(mobilenet_weights: Path) -> None:
    network = build("mobilenet", classes=2, image_size=32, weights="none")
    whole = len(network.model.trainable_weights)
    head = len(network.head.trainable_weights)
    unfreeze(network, "mobilenet", "none")
    assert changeable(network) == []
    assert len(network.model.trainable_weights) == head
    unfreeze(network, "mobilenet", 1)
    assert changeable(network) == ["conv_dw_13", "conv_dw_13_bn", "conv_pw_13", "conv_pw_13_bn"]
    unfreeze(network, "mobilenet", 2)
    assert len(changeable(network)) == 8
    unfreeze(network, "mobilenet", 14)  # With the stem.
    assert len(network.model.trainable_weights) == whole
    unfreeze(network, "mobilenet", 0)
    unfreeze(network, "mobilenet", "all")
    assert len(network.model.trainable_weights) == whole
    for wrong in (15, -1, "some"):
        with pytest.raises(ModelError, match=f"{wrong} blocks of mobilenet.* 0 to 14"):
            unfreeze(network, "mobilenet", wrong)  # type: ignore[arg-type]
    pretrained = build("mobilenet", classes=2, image_size=32, weights=str(mobilenet_weights))
    assert len(changeable(pretrained)) == 27  # One convolution in the stem, two in each block.
    unfreeze(pretrained, "mobilenet", 1)
    assert changeable(pretrained) == ["conv_dw_13", "conv_pw_13"]


def test_fine_tuning_leaves_pretrained_statistics_alone(mobilenet_weights: Path) -> None:
    import keras

    pixels = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    for weights in (str(mobilenet_weights), "none"):
        network = build("mobilenet", classes=2, image_size=32, weights=weights)
        for weight in network.backbone.weights:
            if weight.name == "moving_variance":  # Or hardly anything comes through 27 untrained layers.
                weight.assign(weight * 0.03)
        kernel, mean = (weight_of(network.backbone, kind) for kind in ("kernel", "moving_mean"))
        network.model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        network.model.fit(pixels, np.arange(8) % 2, batch_size=4, verbose=0)
        assert not np.array_equal(weight_of(network.backbone, "kernel"), kernel)
        assert np.array_equal(weight_of(network.backbone, "moving_mean"), mean) == (weights != "none")
        if weights != "none":  # Nor does it calculate with those of the batch.
            learning = np.asarray(network.features(pixels, training=True))
            assert np.array_equal(learning, np.asarray(network.features(pixels, training=False)))


def weight_of(model: keras.Model, kind: str) -> np.ndarray:
    """The values of the last of a model's weights of a kind."""
    return np.asarray([weight for weight in model.weights if weight.name == kind][-1])


@pytest.mark.parametrize(("scratch", "count"), [("resnet50", 16), ("resnet101", 33)], indirect=["scratch"])
def test_residual_branches_begin_closed_from_scratch(scratch: Network, count: int) -> None:
    ends = [layer for layer in scratch.backbone.layers if layer.name.endswith("_3_bn")]
    assert len(ends) == count
    assert all(not np.asarray(layer.gamma).any() for layer in ends)


def test_residual_branches_are_open_where_there_are_weights(tmp_path: Path) -> None:
    import keras

    original = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3))
    original.save_weights(tmp_path / "resnet.weights.h5")
    loaded = build("resnet50", classes=2, image_size=32, weights=str(tmp_path / "resnet.weights.h5"))
    assert all(np.asarray(layer.gamma).all() for layer in loaded.backbone.layers if layer.name.endswith("_3_bn"))


def refused(weights: object, *words: str, name: str = "mobilenet") -> None:
    with pytest.raises(ModelError) as caught:
        build(name, classes=2, image_size=32, weights=str(weights))
    for word in (str(weights), *words):
        assert word in str(caught.value)


def test_weights_that_cannot_be_used(tmp_path: Path, mobilenet_weights: Path) -> None:
    import keras

    refused(tmp_path / "missing.h5", "There is no weights file", "none")
    (tmp_path / "weights.txt").write_text("1 2 3")
    refused(tmp_path / "weights.txt", "its name must end in")
    (tmp_path / "text.weights.h5").write_text("1 2 3")
    refused(tmp_path / "text.weights.h5", "cannot be read as a weights file")
    (tmp_path / "half.weights.h5").write_bytes(mobilenet_weights.read_bytes()[:100_000])
    refused(tmp_path / "half.weights.h5", "cannot be read as a weights file")
    refused(mobilenet_weights, "mobilenetv2 without its classification layer", "--backbone", name="mobilenetv2")
    # Keras itself would load this one and say nothing of what is left over.
    whole = tmp_path / "whole.weights.h5"
    keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), classes=5).save_weights(whole)
    refused(whole, "values, mobilenet without its top has")


def test_weights_in_the_older_format(tmp_path: Path, mobilenet_weights: Path) -> None:
    """keras.applications itself is published in it: layer names in the file's attributes."""
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    network.load_weights(mobilenet_weights)
    older = tmp_path / "mobilenet_notop.h5"
    with h5py.File(older, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    loaded = build("mobilenet", classes=2, image_size=32, weights=str(older))
    for one, other in zip(network.get_weights(), loaded.backbone.get_weights(), strict=True):
        assert np.array_equal(one, other)
    refused(older, "resnet50 without its classification layer", name="resnet50")


def test_without_a_network_the_message_says_what_else_there_is(tmp_path: Path) -> None:
    code = (
        "from leafport.training.backbones import build\n"
        "from leafport.errors import ModelError\n"
        "try: build('mobilenet', classes=2, image_size=32, weights='imagenet')\n"
        "except ModelError as problem: print(problem)"
    )
    nowhere = {"KERAS_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **nowhere}, capture_output=True, text=True, check=True
    )
    assert "cannot be downloaded" in done.stdout
    assert "--weights FILE" in done.stdout
    assert "--weights none" in done.stdout


@pytest.mark.plants
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenet", "mobilenet_1_0_224_tf_no_top.weights.h5"),
        ("mobilenetv2", "mobilenet_v2_1.0_224_no_top.weights.h5"),
        ("squeezenet", "squeezenet_v1.1_notop.h5"),
    ],
)
def test_real_weights_load(name: str, file: str, shared: Path) -> None:
    network = build(name, classes=2, image_size=224, weights=str(shared / "weights" / file))
    assert all(np.isfinite(weight).all() for weight in network.backbone.get_weights())


def test_images_too_small() -> None:
    with pytest.raises(ModelError, match="32 or more"):
        build("mobilenet", classes=2, image_size=16, weights="none")
