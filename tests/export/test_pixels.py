"""The first convolution takes pixels: the same answers, without normalisation, and nearer ones in 8 bits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.export import graph, pixels
from leafport.targets import tflite

SIDE, LABELS = 37, ("a", "b", "c")
CAFFE = [-103.939, -116.779, -123.68]


def classifier(*first: Any) -> Classifier:
    keras.utils.set_random_seed(3)
    image = keras.Input((SIDE, SIDE, 3))
    x = image
    for layer in first:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(image, layers.Dense(len(LABELS), activation="softmax", name="probabilities")(x))
    for weights in model.weights:
        if weights.path.endswith("bias"):
            weights.assign(np.random.default_rng(0).normal(size=weights.shape))
    return Classifier(
        model, Contract(name="first", task="class", labels=LABELS, image=ImageInput(height=SIDE, width=SIDE))
    )


def run(graph_def: Any, images: np.ndarray) -> np.ndarray:
    with tf.Graph().as_default() as imported:
        tf.graph_util.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=imported) as session:
            found: np.ndarray = session.run(f"{graph.OUTPUT}:0", {f"{graph.INPUT}:0": images.astype(np.float32)})
            return found


def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("first", "pads"),
    [
        ([layers.Rescaling(1 / 127.5, offset=-1.0), layers.Conv2D(8, 3, strides=2, padding="same")], True),
        ([layers.Rescaling(1 / 127.5, offset=-1.0), layers.Conv2D(8, 3, strides=2)], False),
        ([layers.Rescaling(1 / 255), layers.ZeroPadding2D(((0, 1), (2, 1))), layers.Conv2D(8, 5)], True),
        ([layers.Rescaling(1 / 255), layers.ZeroPadding2D(1), layers.Conv2D(8, 4, padding="same")], True),
        ([layers.Rescaling(0.5, offset=CAFFE), layers.Conv2D(8, 3)], False),
        ([layers.Normalization(mean=[120, 115, 100], variance=[3000, 3300, 3600]), layers.Conv2D(8, 3)], False),
    ],
    ids=["same", "valid", "pad", "pad and same", "channels", "statistics"],
)
def test_answers_stay(first: list[Any], pads: bool, tmp_path: Path) -> None:
    before = graph.build(classifier(*first), tmp_path).graph_def()
    made = pixels.without_normalisation(before, graph.INPUT)
    assert made is not None
    ops = Counter(node.op for node in made.node)
    assert not ops & Counter({"Mul": 1, "Pad": 1, "RealDiv": 1, "Sub": 1})
    assert ops["PadV2"] == pads
    np.testing.assert_allclose(run(made, images()), run(before, images()), atol=1e-5)


@pytest.mark.parametrize(
    "first",
    [
        [layers.Conv2D(8, 3)],
        [layers.Rescaling(1.0, offset=CAFFE), layers.Conv2D(8, 3, padding="same")],
        [layers.Rescaling(1.0, offset=CAFFE), layers.ZeroPadding2D(3), layers.Conv2D(8, 7, strides=2)],
        [layers.Rescaling(1 / 255), layers.MaxPooling2D(2), layers.Conv2D(8, 3)],
        [layers.Rescaling(1 / 255), layers.ReLU(0.5), layers.Conv2D(8, 3)],
    ],
    ids=["none", "different zeros", "different zeros, pad", "pooling", "not linear"],
)
def test_others_stay_as_they_are(first: list[Any], tmp_path: Path) -> None:
    serving = graph.build(classifier(*first), tmp_path)
    assert pixels.without_normalisation(serving.graph_def(), graph.INPUT) is None
    assert pixels.taken_directly(serving, tmp_path / "other.pb") is serving


def test_an_8_bit_file_sees_pixels(tmp_path: Path) -> None:
    from PIL import Image

    seen = tuple(tmp_path / f"{index}.png" for index in range(6))
    for path, image in zip(seen, images(), strict=True):
        Image.fromarray(image).save(path)
    made = classifier(
        layers.Rescaling(1 / 127.5, offset=-1.0), layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")
    )
    serving = graph.build(made, tmp_path)
    facts = tflite.inspect(tflite.convert(serving, "int8", tmp_path, tflite.Options(calibration=seen)))
    assert facts.ops["PADV2"] == 1 and not {"MUL", "ADD", "SUB"} & set(facts.ops)
    floating = tflite.inspect(tflite.convert(serving, "float32", tmp_path, tflite.Options()))
    assert "PADV2" not in floating.ops
