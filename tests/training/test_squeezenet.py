"""SqueezeNet: what it is made of, and that it says with published weights what others' SqueezeNet says."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from leafport.errors import ModelError
from leafport.training import squeezenet
from leafport.training.backbones import build

PUBLISHED = ("conv1", *(f"fire{n}/{part}" for n in range(2, 10) for part in ("squeeze1x1", "expand1x1", "expand3x3")))
"""The layers that hold weights, under the names and in the order of published files."""


def published_file(path: Path, model: object) -> Path:
    """A model's weights as the published files hold them: one group for each layer, named as Caffe named it."""
    layers = {layer.name: layer for layer in model.layers}  # type: ignore[attr-defined]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in PUBLISHED]
        for name in PUBLISHED:
            kernel, bias = layers[name.replace("/", "_")].get_weights()
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"kernel", b"bias"]
            group["kernel"], group["bias"] = kernel, bias
    return path


def test_its_parts() -> None:
    model = squeezenet.build(224)
    assert model.count_params() == 722_496
    assert model.output_shape == (None, 13, 13, 512)
    assert [layer.name.replace("_", "/") for layer in model.layers if layer.weights] == list(PUBLISHED)


def test_published_files_fit_and_mean_blue_green_red(tmp_path: Path) -> None:
    original = squeezenet.build(64)
    for layer in original.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, np.linspace(-0.1, 0.1, len(bias), dtype=np.float32)])
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    blue_green_red = pixels[..., ::-1] - np.float32([104, 117, 123])
    expected = np.asarray(original(blue_green_red)).mean(axis=(1, 2))
    file = published_file(tmp_path / "squeezenet_notop.h5", original)
    network = build("squeezenet", classes=2, image_size=64, weights=str(file))
    found = np.asarray(network.features(pixels, training=False))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    swapped = np.asarray(network.features(pixels[..., ::-1], training=False))
    assert np.abs(swapped - expected).max() > 1e-2 * np.abs(expected).max()


def test_there_is_nothing_to_download() -> None:
    with pytest.raises(ModelError, match=r"no ImageNet weights of squeezenet to download\. .*--weights FILE"):
        build("squeezenet", classes=2, image_size=64, weights="imagenet")


@pytest.mark.plants
@pytest.mark.parametrize("photograph", ["cat", "parrot", "hot_dog"])
def test_real_weights_make_the_features_of_the_reference(photograph: str, shared: Path) -> None:
    """The reference is ONNX's own SqueezeNet v1.1, of 16-bit weights; its last fire module's map is compared."""
    import onnx
    import onnxruntime

    reference = onnx.load(shared / "reference" / "SqueezeNet_fp16.onnx")
    last = next(node.output[0] for node in reversed(reference.graph.node) if node.op_type == "Concat")
    reference.graph.output.insert(0, onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT16, None))
    session = onnxruntime.InferenceSession(reference.SerializeToString())
    with Image.open(shared / "reference" / f"{photograph}.jpg") as image:
        pixels = np.asarray(image.convert("RGB").resize((224, 224)), np.float32)
    prepared = (pixels[..., ::-1] - [104, 117, 123]).transpose(2, 0, 1)[None].astype(np.float16)
    expected = session.run([last], {"data_0": prepared})[0].astype(np.float32).mean(axis=(2, 3))

    network = build("squeezenet", classes=2, image_size=224, weights=str(shared / "weights/squeezenet_v1.1_notop.h5"))
    found = np.asarray(network.features(pixels[None], training=False))
    assert np.abs(found - expected).max() < 2e-3 * expected.max()
